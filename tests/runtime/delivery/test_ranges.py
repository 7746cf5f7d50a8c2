import random
from itertools import pairwise

from edge_sft.runtime.ranges import RangeSet, gaps, merged, total


def as_set(spans):
    return {n for first, last in spans for n in range(first, last + 1)}


def test_ranges_are_joined_and_gaps_named():
    assert merged([(5, 6), (0, 2), (3, 3), (6, 9)]) == [(0, 3), (5, 9)]
    assert gaps([(5, 9), (0, 3)], 0, 12) == [(4, 4), (10, 12)]
    assert gaps([], 0, 3) == [(0, 3)]
    assert gaps([(0, 100)], 0, 5) == []
    assert gaps([(0, 1)], 0, -1) == []


def test_a_range_set_equals_a_set_of_numbers():
    rng = random.Random(4)
    for _ in range(50):
        kept, plain = RangeSet(), set()
        for _ in range(100):
            first = rng.randrange(200)
            last = first + rng.choice([0, 0, 0, 5])
            low, high = kept.add(first, last)
            assert low <= first <= last <= high
            plain |= set(range(first, last + 1))
        assert as_set(kept) == plain
        assert total(kept) == len(plain)
        assert kept.highest == max(plain)
        assert all((n in kept) == (n in plain) for n in range(210))
        assert all(a[1] + 1 < b[0] for a, b in pairwise(kept))

from __future__ import annotations

import hashlib
import random
from collections import Counter

import pytest

from edge_sft.data.splitting import Member, place


def member(name, label, group=None, split=None):
    return Member(hashlib.sha256(str(name).encode()).hexdigest(), label, group, split)


def cut(members, alike=(), val=0.15, test=0.15, seed=0):
    return [placed.split for placed in place(members, alike, val=val, test=test, seed=seed)]


def shares(members, sides):
    return Counter((m.label, side) for m, side in zip(members, sides, strict=True))


def test_every_label_has_its_share():
    members = [
        member(i, label) for label, n in (("a", 1000), ("b", 40), ("c", 7)) for i in (f"{label}{k}" for k in range(n))
    ]
    found = shares(members, cut(members))
    assert (found["a", "train"], found["a", "val"], found["a", "test"]) == (700, 150, 150)
    assert (found["b", "train"], found["b", "val"], found["b", "test"]) == (28, 6, 6)
    assert (found["c", "train"], found["c", "val"], found["c", "test"]) == (5, 1, 1)


@pytest.mark.parametrize(("count", "expected"), [(1, {"train"}), (2, {"train", "val"}), (3, {"train", "val", "test"})])
def test_rare_labels_are_trained_first_then_validated_then_tested(count, expected):
    members = [member(f"x{i}", "x") for i in range(count)] + [member(f"y{i}", "y") for i in range(50)]
    found = shares(members, cut(members))
    assert {side for (label, side) in found if label == "x"} == expected


def test_the_order_of_the_files_does_not_matter():
    members = [member(i, "ab"[i % 2], group=f"g{i // 5}") for i in range(200)]
    before = dict(zip(members, cut(members), strict=True))
    shuffled = members[:]
    random.Random(1).shuffle(shuffled)
    assert dict(zip(shuffled, cut(shuffled), strict=True)) == before


def test_another_seed_is_another_cut():
    members = [member(i, "a") for i in range(100)]
    assert cut(members, seed=1) != cut(members, seed=2)


def test_adding_pictures_moves_few_others():
    members = [member(i, "ab"[i % 2]) for i in range(1000)]
    before = cut(members)
    after = cut([*members, *(member(f"new{i}", "a") for i in range(50))])
    moved = sum(x != y for x, y in zip(before, after[:1000], strict=True))
    assert moved <= 25  # half of the new ones at the very most; a reshuffle would move half of all


def test_groups_and_near_duplicates_and_equal_content_stay_together():
    rng = random.Random(3)
    members = [member(rng.randrange(250), rng.choice("abc"), group=rng.choice([None, *range(40)])) for _ in range(300)]
    members = [Member(m.sha256, m.label, None if m.group is None else str(m.group), None) for m in members]
    alike = [(rng.randrange(300), rng.randrange(300)) for _ in range(20)]
    placed = place(members, alike, val=0.2, test=0.2, seed=0)
    for first, second in alike:
        assert placed[first].split == placed[second].split
        assert placed[first].group == placed[second].group
    for key in ("sha256", "group"):
        sides = {}
        for m, p in zip(members, placed, strict=True):
            if getattr(m, key) is not None:
                sides.setdefault(getattr(m, key), set()).add(p.split)
        assert all(len(found) == 1 for found in sides.values())


def test_a_group_too_large_for_a_share_is_trained_on():
    members = [member(i, "a", group="huge") for i in range(50)] + [member(f"s{i}", "a") for i in range(50)]
    sides = cut(members)
    assert set(sides[:50]) == {"train"}
    assert Counter(sides)["test"] == 15


def test_given_sides_stay_and_missing_ones_are_cut_from_train():
    train = [member(i, "a", split="train") for i in range(80)]
    test = [member(f"t{i}", "a", split="test") for i in range(20)]
    sides = cut([*train, *test])
    assert sides[80:] == ["test"] * 20
    assert Counter(sides[:80]) == {"train": 68, "val": 12}
    both = [*train, *(member(f"v{i}", "a", split="val") for i in range(20))]
    assert Counter(cut(both)) == {"train": 80, "val": 20}  # nobody asked for a test
    assert Counter(cut(train)) == {"train": 56, "val": 12, "test": 12}  # a pool in a folder called train


def test_pictures_without_a_side_follow_their_group_or_are_cut():
    members = [member(i, "a", group="g", split="test") for i in range(3)]
    members += [member("late", "a", group="g"), *(member(f"f{i}", "a") for i in range(100))]
    sides = cut(members)
    assert sides[3] == "test"
    assert Counter(sides[4:]) == {"train": 85, "val": 15}


def test_no_test_wanted():
    assert "test" not in cut([member(i, "a") for i in range(100)], test=0.0)


def test_nothing_to_cut():
    assert place([], [], val=0.1, test=0.1, seed=0) == []

"""Sets of sequence numbers as closed ranges: what arrived, what is missing, what was dropped."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]  # both ends included


def merged(spans: Iterable[Range]) -> list[Range]:
    """Return sorted ranges with overlapping and adjacent ones joined."""
    joined: list[Range] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined


def gaps(spans: Iterable[Range], first: int, last: int) -> list[Range]:
    """Return what lies between ``first`` and ``last`` (both included) and in none of the spans."""
    missing: list[Range] = []
    position = first
    for start, end in merged(spans):
        if start > last:
            break
        if start > position:
            missing.append((position, start - 1))
        position = max(position, end + 1)
    if position <= last:
        missing.append((position, last))
    return missing


def total(spans: Iterable[Range]) -> int:
    """Count the numbers in disjoint ranges."""
    return sum(last - first + 1 for first, last in spans)


class RangeSet:
    """A growing set of numbers; adding is O(log n) to find and cheap when numbers come nearly in order."""

    def __init__(self, spans: Iterable[Range] = ()) -> None:
        self._spans = merged(spans)

    def __iter__(self) -> Iterator[Range]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._spans, (number, 2**63)) - 1
        return place >= 0 and self._spans[place][1] >= number

    @property
    def highest(self) -> int:
        """Greatest number, -1 when empty."""
        return self._spans[-1][1] if self._spans else -1

    def add(self, first: int, last: int) -> Range:
        """Include a range and return the joined range that now holds it."""
        low = bisect_right(self._spans, (first, -1))
        if low and self._spans[low - 1][1] >= first - 1:
            low -= 1
        high = low
        while high < len(self._spans) and self._spans[high][0] <= last + 1:
            first, last = min(first, self._spans[high][0]), max(last, self._spans[high][1])
            high += 1
        self._spans[low:high] = [(first, last)]
        return first, last

    def around(self, number: int) -> Range | None:
        """Return the range that holds a number, or None."""
        place = bisect_right(self._spans, (number, 2**63)) - 1
        return self._spans[place] if place >= 0 and self._spans[place][1] >= number else None

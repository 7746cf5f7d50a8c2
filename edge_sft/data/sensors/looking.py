"""Numbers about one channel of one run, and about one run's time; what the judging of data starts from. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SAMPLE = 20_000  # values of a run that percentiles are taken of
_ANALOG = 10  # distinct values from which a channel counts as a measurement, not a state


@dataclass(frozen=True)
class ChannelLook:
    """One channel of one run.

    Attributes:
        present: Rows with a value.
        rows: Rows altogether.
        smallest: NaN where the channel has no value, as in the next four.
        middle: Median.
        largest: Of all values.
        quarter: 25th percentile.
        three_quarters: 75th percentile.
        analog: Whether it has more than a few distinct values.
        flat_rows: Rows of the longest stretch in which it does not change.
        flat_start: Row where that begins.
        usual_rows: Median length of such stretches.
        empty_rows: Rows of the longest stretch without a value.
        empty_start: Row where that begins.
    """

    present: int
    rows: int
    smallest: float
    middle: float
    largest: float
    quarter: float
    three_quarters: float
    analog: bool
    flat_rows: int
    flat_start: int
    usual_rows: float
    empty_rows: int
    empty_start: int

    @property
    def spread(self) -> float:
        """Interquartile range."""
        return self.three_quarters - self.quarter

    @property
    def constant(self) -> bool:
        """Whether all its values are one."""
        return self.present > 0 and self.smallest == self.largest


@dataclass(frozen=True)
class TimeLook:
    """One run's clock, in the time column's unit.

    ``step`` is the median step forward; ``backs`` and ``gaps`` are (row, step) of jumps back and of silences longer
    than ten steps; ``same`` counts rows with the time of the row before.
    """

    start: float
    end: float
    step: float
    backs: tuple[tuple[int, float], ...]
    gaps: tuple[tuple[int, float], ...]
    same: int


def look_at_time(time: NDArray[np.float64]) -> TimeLook:
    """Look at a run's time column, [n]."""
    steps = np.diff(time)
    forward = steps[steps > 0]
    step = float(np.median(forward)) if len(forward) else 0.0
    backs = np.flatnonzero(steps < 0)
    gaps = np.flatnonzero(steps > 10 * step) if step else np.zeros(0, dtype=np.int64)
    return TimeLook(
        start=float(time.min()),
        end=float(time.max()),
        step=step,
        backs=tuple((int(i), float(steps[i])) for i in backs[:1000]),
        gaps=tuple((int(i), float(steps[i])) for i in gaps[:1000]),
        same=int((steps == 0).sum()),
    )


def look_at_channel(values: NDArray[np.float64]) -> ChannelLook:
    """Look at one channel of a run, [n] with NaN."""
    known = np.isfinite(values)
    at = np.flatnonzero(known)
    empty_rows, empty_start = longest(~known)
    if not len(at):
        nan = float("nan")
        return ChannelLook(0, len(values), nan, nan, nan, nan, nan, False, 0, 0, 0.0, empty_rows, empty_start)
    x = values[at]
    some = x[:: max(1, len(x) // _SAMPLE)]
    quarter, middle, three_quarters = np.percentile(some, (25, 50, 75))
    edges = np.concatenate(([0], np.flatnonzero(np.diff(x) != 0) + 1, [len(x)]))
    lengths = np.diff(edges)
    most = int(lengths.argmax())
    return ChannelLook(
        present=len(at),
        rows=len(values),
        smallest=float(x.min()),
        middle=float(middle),
        largest=float(x.max()),
        quarter=float(quarter),
        three_quarters=float(three_quarters),
        analog=len(np.unique(some[:2000])) > _ANALOG or len(np.unique(some)) > _ANALOG,
        flat_rows=int(lengths[most]),
        flat_start=int(at[edges[most]]),
        usual_rows=float(np.median(lengths)),
        empty_rows=empty_rows,
        empty_start=empty_start,
    )


def longest(flags: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the length and the beginning of the longest stretch of true flags."""
    padded = np.concatenate(([False], flags, [False]))
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    if not len(edges):
        return 0, 0
    lengths = edges[1::2] - edges[::2]
    most = int(lengths.argmax())
    return int(lengths[most]), int(edges[2 * most])


def changes(values: NDArray[np.float64], start: int, rows: int) -> NDArray[np.bool_]:
    """Tell which channels of [n, C] go on changing within a stretch of rows: in a tenth of its steps or more."""
    part = values[start : start + rows]
    with np.errstate(invalid="ignore"):
        return np.asarray(((np.diff(part, axis=0) != 0) & np.isfinite(part[1:])).mean(axis=0) >= 0.1)


def envelope(
    time: NDArray[np.float64], values: NDArray[np.float64], bins: int = 160
) -> tuple[list[float], list[float]]:
    """Return the smallest and the largest value in equal spans of time, NaN where there is none."""
    low, high = float(time.min()), float(time.max())
    span = (high - low) or 1.0
    place = np.minimum((bins * (time - low) / span).astype(np.int64), bins - 1)
    lows, highs = np.full(bins, np.inf), np.full(bins, -np.inf)
    known = np.isfinite(values)
    np.minimum.at(lows, place[known], values[known])
    np.maximum.at(highs, place[known], values[known])
    nothing = ~np.isfinite(lows)
    lows[nothing] = np.nan
    highs[nothing] = np.nan
    return lows.tolist(), highs.tolist()

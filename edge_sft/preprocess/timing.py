"""Which run and which grid cell a row belongs to: late rows, silences and clocks that jump. State of one asset."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.preprocess.windowing import Windowing

_FARTHEST = 1e15  # of a time column: 30 million years of seconds; beyond it floats do not count in steps any more
_CLOCK = 1e8  # seconds since 1970 are larger (from 1973 on)
_BACK = 10  # steps by which rows may be out of order before the clock is suspected
_WITNESSES = 3  # old rows, one going on from the other, that it takes
_BULK = 16  # rows from which arrays beat the loop

Fact = tuple[str, str]


@dataclass(frozen=True)
class Stretch:
    """Rows of one run, as they came.

    Attributes:
        run: Number of the run.
        anchor: Time of its cell 0.
        origin: Time from which the age counts.
        rows: Which rows of the push, int64 [n].
        cells: Cell of each, int64 [n], never falling.
    """

    run: int
    anchor: float
    origin: float
    rows: NDArray[np.int64]
    cells: NDArray[np.int64]


class Timing:
    """Assigns rows to runs and cells, one after the other; what it decides never depends on how rows were batched.

    Cell k of a run holds the rows nearest to ``anchor + k × period_s``: rows that jitter by less than half a step
    keep one cell each. A row older than the open cell is late and left out. Three such rows that follow each other
    and are older by more than ``gap_s`` (without one: by ten steps or ``hold_s``) say that the clock was set back,
    and a new run begins with the third; one stray row of yesterday moves nothing. A silence longer than ``gap_s``
    begins a new run; one so long that no window can hold anything older begins a new grid, while the age goes on.
    """

    def __init__(self, windowing: Windowing, tell: Callable[[Fact], None]) -> None:
        # cells are the shaft's with order tracking; here rows only have to follow each other
        self._by_angle = windowing.order is not None
        steps = windowing.length + held_steps(windowing) + 1
        self.period = windowing.period_s
        self.gap = math.inf if windowing.gap_s is None else windowing.gap_s
        self.silent = math.inf if self._by_angle else steps * windowing.period_s
        self.back = max(_BACK * windowing.period_s, windowing.hold_s) if windowing.gap_s is None else windowing.gap_s
        self._tell = tell
        self.run = -1
        self.anchor = self.origin = self.newest = math.nan
        self.open = 0  # first cell that is not out yet
        self._suspect = math.nan  # time of the last row that was much too old
        self._suspects = 0

    def assign(self, time: NDArray[np.float64]) -> list[Stretch]:
        """Place rows; those without a usable time and late ones are left out and told."""
        usable = np.abs(time) <= _FARTHEST  # NaN is not
        rows = np.flatnonzero(usable)
        if rows.size < time.size:
            self._tell(("time", f"{time.size - rows.size} rows have no usable time and were left out"))
            time = time[rows]
        stretches: list[Stretch] = []
        late = 0
        falls = [*(np.flatnonzero(time[1:] < time[:-1]) + 1).tolist(), time.size] if time.size > 1 else [time.size]
        at = 0
        for stop in falls:
            while at < stop:
                if stop - at >= _BULK and not time[at] < self.newest:
                    late += self._many(time[at:stop], rows[at:stop], stretches)
                    at = stop
                else:
                    singles = stop if stop - at < _BULK else at + 1
                    late += self._one_by_one(time[at:singles], rows[at:singles], stretches)
                    at = singles
        if late:
            self._tell(("late", f"{late} rows came after their time was over and were left out"))
        return stretches

    def reached(self, now: float) -> int:
        """Return the cell in which ``now`` lies; all before it are over. 0 before the first row."""
        if self.run < 0 or not abs(now) <= _FARTHEST:
            return 0
        return math.floor((now - self.anchor) / self.period + 0.5)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all there is to know."""
        return {
            "clock": np.array([self.anchor, self.origin, self.newest, self._suspect]),
            "clock_run": np.array([self.run, self.open, self._suspects], np.int64),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state. Raises KeyError, ValueError."""
        self.anchor, self.origin, self.newest, self._suspect = (float(t) for t in state["clock"])
        self.run, self.open, self._suspects = (int(n) for n in state["clock_run"])

    def _one_by_one(self, time: NDArray[np.float64], rows: NDArray[np.int64], out: list[Stretch]) -> int:
        taken: list[int] = []
        cells: list[int] = []
        late = 0
        for row, moment in zip(rows.tolist(), time.tolist(), strict=True):
            run, anchor, origin = self.run, self.anchor, self.origin
            self._look(moment)
            if self.run != run and taken:
                out.append(Stretch(run, anchor, origin, np.array(taken, np.int64), np.array(cells, np.int64)))
                taken, cells = [], []
            cell = math.floor((moment - self.anchor) / self.period + 0.5)
            behind = moment < self.newest
            self.newest = max(self.newest, moment)
            if behind if self._by_angle else cell < self.open:
                late += 1
                continue
            self.open = cell
            taken.append(row)
            cells.append(cell)
        if taken:
            out.append(
                Stretch(self.run, self.anchor, self.origin, np.array(taken, np.int64), np.array(cells, np.int64))
            )
        return late

    def _look(self, moment: float) -> None:
        """Begin a new run where this row cannot belong to the present one."""
        if self.run < 0:
            self._begin(moment, moment)
            return
        silence = moment - self.newest
        if silence > self.gap:
            fact = f"silent for {_span(silence, moment)}, which is longer than gap_s ({self.gap:g}): a new run begins"
            self._tell(("gap", fact))
            self._begin(moment, moment)
        elif silence > self.silent:
            self._tell(("gap", f"silent for {_span(silence, moment)}: nothing older is left in the window"))
            self._begin(moment, self.origin)
        elif -silence > self.back:
            follows = self._suspects and 0 <= moment - self._suspect <= min(self.gap, self.silent)
            self._suspects = self._suspects + 1 if follows else 1
            self._suspect = moment
            if self._suspects == _WITNESSES:
                self._tell(("clock", f"the clock went back by {_span(-silence, moment)}: a new run begins"))
                self._begin(moment, moment)
            return
        self._suspects = 0

    def _begin(self, moment: float, origin: float) -> None:
        self.run += 1
        self.anchor = self.newest = moment
        self.origin = origin
        self.open = 0
        self._suspects = 0

    def _many(self, time: NDArray[np.float64], rows: NDArray[np.int64], out: list[Stretch]) -> int:
        """Rows whose times never fall, none before the newest: the same as one by one, in arrays."""
        silence = np.diff(time)
        begins = np.flatnonzero((silence > self.gap) | (silence > self.silent)) + 1
        late = 0
        for start, stop in zip([0, *begins.tolist()], [*begins.tolist(), time.size], strict=True):
            self._look(float(time[start]))
            cells = np.floor((time[start:stop] - self.anchor) / self.period + 0.5).astype(np.int64)
            early = 0 if self._by_angle else int(np.searchsorted(cells, self.open))  # `advance` has closed them
            late += early
            self.newest = float(time[stop - 1])
            if early < cells.size:
                self.open = int(cells[-1])
                out.append(Stretch(self.run, self.anchor, self.origin, rows[start + early : stop], cells[early:]))
        return late


def held_steps(windowing: Windowing) -> int:
    """Return for how many whole grid steps a value may stand in."""
    return math.floor(windowing.hold_s / windowing.period_s + 1e-9)


def _span(length: float, moment: float) -> str:
    """Write a length of time: in days, hours or minutes where the time column is a clock, else as it counts."""
    if not abs(moment) > _CLOCK:
        return f"{length:g}"
    for unit, word in ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"), (0.0, "second")):
        if length >= 0.995 * unit:
            count = length / (unit or 1.0)
            number = f"{count:.3g}" if count < 100 else f"{count:,.0f}"
            return f"{number} {word}{'' if number == '1' else 's'}"
    return f"{length:g}"

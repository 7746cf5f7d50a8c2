"""Raw rows → regular grid with a validity mask, one asset at a time; the same bits however the rows arrive."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import DataError
from edge_sft.preprocess.cells import Cells
from edge_sft.preprocess.ordering import Shaft
from edge_sft.preprocess.timing import Fact, Stretch, Timing
from edge_sft.preprocess.validity import Validity
from edge_sft.preprocess.windowing import Windowing

_FACTS = 100


@dataclass(frozen=True)
class Grid:
    """Completed cells, oldest first.

    Attributes:
        index: Grid step since the run began, int64 [m].
        time: Time of the step's end, float64 [m], in the time column's unit; the run's first row is at the end of
            step 0, and rows that jitter by up to half a step still count to theirs.
        values: float32 [m, C'], always finite, 0 where not valid.
        valid: float32 [m, C'], 1 or 0.
        run: Number of the run, int64 [m]; a window never reaches into another run.
    """

    index: NDArray[np.int64]
    time: NDArray[np.float64]
    values: NDArray[np.float32]
    valid: NDArray[np.float32]
    run: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def joined(cls, grids: Sequence[Grid], width: int) -> Grid:
        """Put grids of ``width`` columns one after the other."""
        if len(grids) == 1:
            return grids[0]
        if not grids:
            none = np.zeros(0, np.int64)
            return cls(none, np.zeros(0), np.zeros((0, width), np.float32), np.zeros((0, width), np.float32), none)
        return cls(
            np.concatenate([g.index for g in grids]),
            np.concatenate([g.time for g in grids]),
            np.concatenate([g.values for g in grids]),
            np.concatenate([g.valid for g in grids]),
            np.concatenate([g.run for g in grids]),
        )


class Gridder:
    """One asset's rows → grid cells, each computed once, when it is over, from all rows that fell into it.

    Attributes:
        facts: What was noticed, (kind, sentence), the last hundred: time, late, gap, clock, stuck,
            moving, speed.
    """

    def __init__(self, windowing: Windowing) -> None:
        self._windowing = windowing
        self._channels = len(windowing.channels)
        self._width = len(windowing.names)
        self._digest = _digest(windowing)
        self.facts: deque[Fact] = deque(maxlen=_FACTS)
        self._timing = Timing(windowing, self.facts.append)
        self._validity = Validity(windowing)
        self._shaft = None if windowing.order is None else Shaft(windowing)
        self._cells = Cells(windowing)
        self._stretch = -1  # run of the clock that the open cell belongs to
        self._run, self._anchor, self._origin = -1, np.nan, np.nan
        self._told_lost = False
        self._times = np.zeros(0)  # with order tracking: when the steps from the open one on were

    @property
    def stuck(self) -> tuple[str, ...]:
        """Channels that stand still longer than their ``stuck_s``."""
        if not self._validity.stuck.any():
            return ()
        watched = self._validity.watched[self._validity.stuck]
        return tuple(self._windowing.channels[i].name for i in watched)

    @property
    def origin(self) -> float:
        """Time from which the age counts: the run's first row. NaN before it."""
        return self._timing.origin

    def started(self, origin: float) -> None:
        """Count the age of the present run from an earlier time: somebody saw more of it than this grid did."""
        if self._origin == self._timing.origin:
            self._origin = origin
        self._timing.origin = origin

    def push(self, time: NDArray[np.float64], values: NDArray[np.float64]) -> Grid:
        """Take rows and return the cells that are over with them.

        Args:
            time: float64 [n] in the time column's unit, in order of arrival.
            values: float64 [n, C] in the windowing's channel order, NaN where a channel said nothing.

        Raises:
            DataError: The arrays do not fit each other or the windowing.
        """
        time = np.asarray(time, dtype=np.float64)
        values = np.asarray(values, dtype=np.float64)
        if time.ndim != 1 or values.shape != (time.size, self._channels):
            raise DataError(
                "sensor rows",
                f"have times of shape {time.shape} and values of shape {values.shape}",
                f"Give n times and [n, {self._channels}] values in the windowing's channel order.",
            )
        values = self._validity.plausible(values)
        grids: list[Grid] = []
        for stretch in self._timing.assign(time):
            self._take(stretch, time[stretch.rows], values[stretch.rows], grids)
        return self._joined(grids)

    def advance(self, now: float) -> Grid:
        """Complete the cells before ``now`` although nothing came, as far as ``hold_s`` lets a value stand in.

        Cells come earlier by it than with the next row, not other ones, except that a run that ends in silence gets
        its held cells too. With order tracking nothing comes: a shaft's angle is not known from silence.
        """
        if self._shaft is not None:
            return self._joined([])
        return self._completed(min(self._timing.reached(now), self._cells.last + 1 + self._cells.hold))

    def flush(self) -> Grid:
        """Complete the open cell: nothing more will come for it."""
        return self._completed(self._end())

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all there is to know for going on exactly from here; arrays that ``np.savez`` takes."""
        parts = {**self._timing.state(), **self._validity.state(), **self._cells.state()}
        if self._shaft is not None:
            parts |= self._shaft.state()
        return {
            **parts,
            "windowing": np.array(self._digest),
            "run": np.array([self._stretch, self._run], np.int64),
            "frame": np.array([self._anchor, self._origin, *self._times]),
        }

    @classmethod
    def restore(cls, windowing: Windowing, state: Mapping[str, NDArray[Any]]) -> Gridder:
        """Go on from a state.

        Raises:
            DataError: The state belongs to another windowing or is damaged.
        """
        gridder = cls(windowing)
        try:
            if str(state["windowing"]) != gridder._digest:
                raise DataError("kept sensor state", "belongs to another windowing", "Start without it.")
            gridder._timing.restore(state)
            gridder._validity.restore(state)
            gridder._cells.restore(state)
            if gridder._shaft is not None:
                gridder._shaft.restore(state)
            gridder._stretch, gridder._run = (int(n) for n in state["run"])
            frame = np.array(state["frame"], np.float64)
            gridder._anchor, gridder._origin, gridder._times = float(frame[0]), float(frame[1]), frame[2:]
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise DataError("kept sensor state", f"is damaged ({error})", "Start without it.") from error
        return gridder

    def _take(self, stretch: Stretch, time: NDArray[np.float64], values: NDArray[np.float64], out: list[Grid]) -> None:
        if stretch.run != self._stretch:
            self._begin(out, stretch.anchor)
            self._stretch, self._origin = stretch.run, stretch.origin
            self._validity.forget()
            if self._shaft is not None:
                self._shaft.begin()
        values = self._moving(time, values)
        if self._shaft is None:
            out.append(self._grid(self._cells.add(stretch.cells, values)))
        else:
            self._turn(self._shaft, time, values, out)

    def _turn(self, shaft: Shaft, time: NDArray[np.float64], values: NDArray[np.float64], out: list[Grid]) -> None:
        for turn in shaft.track(time, values):
            if turn.fresh and self._cells.last >= 0:
                self.facts.append(
                    ("speed", "the shaft's angle was lost (speed not known, or too far between two rows)")
                )
                self._begin(out, np.nan)
            self._times = np.concatenate([self._times, turn.times])
            if len(turn.cells):
                out.append(self._grid(self._cells.add(turn.cells, turn.values)))
        if shaft.lost and not self._told_lost:
            self.facts.append(("speed", "the shaft's speed is not known: no angle, no steps"))
        self._told_lost = shaft.lost

    def _begin(self, out: list[Grid], anchor: float) -> None:
        """End the present run's grid and begin another."""
        out.append(self._grid(self._cells.complete(self._end())))
        self._cells.begin()
        self._run += 1
        self._anchor = anchor
        self._times = self._times[:0]

    def _end(self) -> int:
        """Return the step behind the last that may be completed without more rows."""
        stop = self._cells.last + 1
        return stop if self._shaft is None else min(stop, self._cells.open + len(self._times))

    def _completed(self, stop: int) -> Grid:
        grid = self._grid(self._cells.complete(stop))
        self._timing.open = self._cells.open
        return grid

    def _moving(self, time: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self._validity.watched.size:
            return values
        before, known = self._validity.stuck, self.stuck
        values = self._validity.moving(time, values)
        if self._validity.stuck.tobytes() != before.tobytes():
            now = self.stuck
            self.facts.extend(("stuck", f"{name} stands still and is not used") for name in now if name not in known)
            self.facts.extend(("moving", f"{name} moves again") for name in known if name not in now)
        return values

    def _grid(self, values: NDArray[np.float64]) -> Grid:
        """Turn cells that have just been completed, [m, C] with NaN where nothing is known, into a grid."""
        count = len(values)
        index = np.arange(self._cells.open - count, self._cells.open)
        valid = np.isfinite(values)
        out = np.where(valid, values, 0.0).astype(np.float32)
        mask = valid.astype(np.float32)
        if self._shaft is None:
            elapsed = index * self._windowing.period_s
            time = self._anchor + elapsed
            age = (self._anchor - self._origin) + elapsed
        else:
            time, self._times = self._times[:count], self._times[count:].copy()
            age = time - self._origin
        if self._windowing.age:
            out = np.concatenate([out, (age / self._windowing.age_unit).astype(np.float32)[:, None]], axis=1)
            mask = np.concatenate([mask, np.ones((count, 1), np.float32)], axis=1)
        return Grid(index, np.asarray(time, np.float64), out, mask, np.full(count, self._run))

    def _joined(self, grids: list[Grid]) -> Grid:
        return Grid.joined([grid for grid in grids if len(grid)], self._width)


def grid_run(windowing: Windowing, time: NDArray[np.float64], values: NDArray[np.float64]) -> Grid:
    """Return the whole grid of a recording, bit for bit what a `Gridder` gives for it in any pieces.

    Args:
        windowing: How.
        time: float64 [n], in order of arrival.
        values: float64 [n, C], NaN where missing.

    Raises:
        DataError: The arrays do not fit each other or the windowing.
    """
    gridder = Gridder(windowing)
    width = len(windowing.names)
    return Grid.joined([gridder.push(time, values), gridder.flush()], width)


def rows_of(grid: Grid, time: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each grid step the last of a recording's rows (rising times) that fell into it or before, int64 [m].

    What is known of a row (its label, its remaining life) belongs to that step. -1 where there is none.
    """
    return np.searchsorted(time, grid.time, side="right") - 1


def _digest(windowing: Windowing) -> str:
    return hashlib.sha256(windowing.model_dump_json().encode()).hexdigest()

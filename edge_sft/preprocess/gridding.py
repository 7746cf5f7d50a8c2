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
from edge_sft.preprocess.timing import Fact, Stretch, Timing, held_steps
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
        facts: What was noticed, (kind, sentence), the last hundred; kinds: time, late, gap, clock, stuck, moving.
    """

    def __init__(self, windowing: Windowing) -> None:
        self._windowing = windowing
        self._channels = len(windowing.channels)
        self._hold = held_steps(windowing)
        self.facts: deque[Fact] = deque(maxlen=_FACTS)
        self._timing = Timing(windowing, self.facts.append)
        self._validity = Validity(windowing)
        self._frame = (-1, np.nan, np.nan)  # run, anchor and origin of the open cell
        self._sum = np.zeros(self._channels)  # of the open cell
        self._count = np.zeros(self._channels)
        self._held = np.full(self._channels, np.nan)  # last valid cell of each channel
        self._held_at = np.zeros(self._channels, np.int64)
        self._open = 0  # first cell that is not out yet
        self._last = -1  # cell of the newest row

    @property
    def stuck(self) -> tuple[str, ...]:
        """Channels that stand still longer than their ``stuck_s``."""
        watched = self._validity.watched[self._validity.stuck]
        return tuple(self._windowing.channels[i].name for i in watched)

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
        its held cells too.
        """
        return self._closed(min(self._timing.reached(now), self._last + 1 + self._hold))

    def flush(self) -> Grid:
        """Complete the open cell: nothing more will come for it."""
        return self._closed(self._last + 1)

    def _closed(self, stop: int) -> Grid:
        grid = self._complete(stop)
        self._timing.open = self._open
        return grid

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all there is to know for going on exactly from here."""
        timing, validity = self._timing, self._validity
        return {
            "windowing": np.array(_digest(self._windowing)),
            "counts": np.array([timing.run, timing.open, self._open, self._last, self._frame[0]], np.int64),
            "times": np.array([timing.anchor, timing.origin, timing.newest, *self._frame[1:]]),
            "cells": np.stack([self._sum, self._count, self._held]),
            "held_at": self._held_at.copy(),
            "watched": np.stack([validity.value, validity.since, validity.stuck.astype(np.float64)]),
        }

    @classmethod
    def restore(cls, windowing: Windowing, state: Mapping[str, NDArray[Any]]) -> Gridder:
        """Go on from a state.

        Raises:
            DataError: The state belongs to another windowing or is damaged.
        """
        gridder = cls(windowing)
        try:
            if str(state["windowing"]) != _digest(windowing):
                raise DataError("kept sensor state", "belongs to another windowing", "Start without it.")
            timing, validity = gridder._timing, gridder._validity
            timing.run, timing.open, gridder._open, gridder._last, run = (int(n) for n in state["counts"])
            timing.anchor, timing.origin, timing.newest, anchor, origin = (float(t) for t in state["times"])
            gridder._frame = (run, anchor, origin)
            gridder._sum, gridder._count, gridder._held = (np.array(c, np.float64) for c in state["cells"])
            gridder._held_at = np.array(state["held_at"], np.int64)
            validity.value, validity.since, stuck = (np.array(w, np.float64) for w in state["watched"])
            validity.stuck = stuck > 0
        except (KeyError, ValueError, TypeError) as error:
            raise DataError("kept sensor state", f"is damaged ({error})", "Start without it.") from error
        return gridder

    def _take(self, stretch: Stretch, time: NDArray[np.float64], values: NDArray[np.float64], out: list[Grid]) -> None:
        if stretch.run != self._frame[0]:
            if self._open <= self._last:
                out.append(self._complete(self._last + 1))
            self._begin(stretch)
        values = self._moving(time, values)
        self._last = int(stretch.cells[-1])
        sums, counts = self._summed(stretch.cells - self._open, values)
        if len(sums) > 1:
            with np.errstate(invalid="ignore"):
                out.append(self._cells(sums[:-1] / counts[:-1]))
        self._sum, self._count = sums[-1], counts[-1]

    def _begin(self, stretch: Stretch) -> None:
        self._frame = (stretch.run, stretch.anchor, stretch.origin)
        self._open = 0
        self._sum = np.zeros(self._channels)
        self._count = np.zeros(self._channels)
        self._held = np.full(self._channels, np.nan)
        self._held_at = np.zeros(self._channels, np.int64)
        self._validity.forget()

    def _moving(self, time: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        before = self.stuck
        values = self._validity.moving(time, values)
        now = self.stuck
        if now != before:
            self.facts.extend(("stuck", f"{name} stands still and is not used") for name in now if name not in before)
            self.facts.extend(("moving", f"{name} moves again") for name in before if name not in now)
        return values

    def _summed(
        self, cells: NDArray[np.int64], values: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return sum and count of each cell from the open one on, [m, C]; a ``last`` value is a sum of one."""
        shape = (int(cells[-1]) + 1, self._channels)
        sums, counts = np.zeros(shape), np.zeros(shape)
        sums[0], counts[0] = self._sum, self._count
        seen = np.isfinite(values)
        if self._windowing.aggregate == "mean":
            if len(cells) == 1:
                sums[-1] += np.where(seen[0], values[0], 0.0)
                counts[-1] += seen[0]
                return sums, counts
            # bincount adds in order of arrival, what is in the open cell first: any cutting gives the same bits
            flat = (cells[:, None] * self._channels + np.arange(self._channels))[seen]
            first = np.arange(self._channels)
            total = np.concatenate([self._sum, values[seen]])
            sums[:] = np.bincount(np.concatenate([first, flat]), total, sums.size).reshape(shape)
            counts += np.bincount(flat, minlength=counts.size).astype(np.float64).reshape(shape)
            return sums, counts
        if len(cells) == 1:
            np.copyto(sums[-1], values[0], where=seen[0])
            np.copyto(counts[-1], 1.0, where=seen[0])
            return sums, counts
        row, channel = np.nonzero(seen)  # in order of arrival: the last one stays
        sums[cells[row], channel] = values[row, channel]
        counts[cells[row], channel] = 1.0
        return sums, counts

    def _complete(self, stop: int) -> Grid:
        """Return the cells from the open one to before ``stop``; all but the open one are empty."""
        values = np.full((max(0, stop - self._open), self._channels), np.nan)
        if len(values):
            np.divide(self._sum, self._count, out=values[0], where=self._count > 0)
            self._sum = np.zeros(self._channels)
            self._count = np.zeros(self._channels)
        return self._cells(values)

    def _cells(self, values: NDArray[np.float64]) -> Grid:
        """Turn completed cells [m, C] (NaN where nothing came) into the grid and move the open cell behind them."""
        count = len(values)
        index = np.arange(self._open, self._open + count)
        if self._hold and count:
            values = self._hold_fill(index, values)
        self._open += count
        run, anchor, origin = self._frame
        period = self._windowing.period_s
        valid = np.isfinite(values)
        out = np.where(valid, values, 0.0).astype(np.float32)
        mask = valid.astype(np.float32)
        if self._windowing.age:
            age = ((anchor - origin) + index * period) / self._windowing.age_unit
            out = np.concatenate([out, age.astype(np.float32)[:, None]], axis=1)
            mask = np.concatenate([mask, np.ones((count, 1), np.float32)], axis=1)
        return Grid(index, np.asarray(anchor + index * period, np.float64), out, mask, np.full(count, run))

    def _hold_fill(self, index: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        own = np.isfinite(values)
        if own.all():
            self._held, self._held_at = values[-1], np.full(self._channels, index[-1])
            return values
        order = np.arange(1, len(values) + 1)[:, None]
        latest = np.maximum.accumulate(np.where(own, order, 0), axis=0)
        known = np.concatenate([self._held[None], values])
        since = np.concatenate([self._held_at[None], np.broadcast_to(index[:, None], values.shape)])
        filled = np.take_along_axis(known, latest, axis=0)
        at = np.take_along_axis(since, latest, axis=0)
        self._held, self._held_at = filled[-1], at[-1]
        return np.where(index[:, None] - at <= self._hold, filled, np.nan)

    def _joined(self, grids: list[Grid]) -> Grid:
        return Grid.joined(grids, len(self._windowing.names))


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

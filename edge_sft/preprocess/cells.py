"""Values → grid cells: what falls into one, and how long the last one stands in. State of one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.preprocess.timing import held_steps
from edge_sft.preprocess.windowing import Windowing


class Cells:
    """Adds values up in the open cell and hands out cells that are over, [m, C] with NaN where there is no value.

    Attributes:
        open: First cell that is not out yet.
        last: Cell of the newest value; below ``open`` where the open cell is empty.
    """

    def __init__(self, windowing: Windowing) -> None:
        self._channels = len(windowing.channels)
        self._mean = windowing.aggregate == "mean"
        # with order tracking a value stands in before it is resampled
        self.hold = 0 if windowing.order is not None else held_steps(windowing)
        self.begin()

    def begin(self) -> None:
        """Forget the run."""
        self.open, self.last = 0, -1
        self._sum = np.zeros(self._channels)
        self._count = np.zeros(self._channels)
        self._held = np.full(self._channels, np.nan)
        self._held_at = np.zeros(self._channels, np.int64)

    def add(self, cells: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add values [n, C] to cells [n] (never falling, none before the open one); return those before the last."""
        self.last = int(cells[-1])
        sums, counts = self._summed(cells - self.open, values)
        over = len(sums) - 1
        self._sum, self._count = sums[over].copy(), counts[over].copy()  # not the whole array's memory
        with np.errstate(invalid="ignore"):
            return self._out(sums[:over] / counts[:over])

    def complete(self, stop: int) -> NDArray[np.float64]:
        """Return the cells from the open one to before ``stop``, although nothing came behind them."""
        values = np.full((max(0, stop - self.open), self._channels), np.nan)
        if len(values):
            np.divide(self._sum, self._count, out=values[0], where=self._count > 0)
            self._sum = np.zeros(self._channels)
            self._count = np.zeros(self._channels)
        return self._out(values)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all there is to know."""
        return {
            "cells": np.stack([self._sum, self._count, self._held]),
            "held_at": np.array([self.open, self.last, *self._held_at], np.int64),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state. Raises KeyError, ValueError."""
        shape = (3, self._channels)
        self._sum, self._count, self._held = np.array(state["cells"], np.float64).reshape(shape)
        whole = np.array(state["held_at"], np.int64).reshape(2 + self._channels)
        self.open, self.last, self._held_at = int(whole[0]), int(whole[1]), whole[2:]

    def _summed(
        self, cells: NDArray[np.int64], values: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return sum and count of each cell from the open one on, [m, C]; a ``last`` value is a sum of one."""
        shape = (int(cells[-1]) + 1, self._channels)
        sums, counts = np.zeros(shape), np.zeros(shape)
        sums[0], counts[0] = self._sum, self._count
        seen = np.isfinite(values)
        if len(cells) == 1:
            if self._mean:
                np.add(sums[-1], values[0], out=sums[-1], where=seen[0])
                counts[-1] += seen[0]
            else:
                np.copyto(sums[-1], values[0], where=seen[0])
                np.copyto(counts[-1], 1.0, where=seen[0])
        elif self._mean:
            # bincount adds in order of arrival, what is in the open cell first: any cutting gives the same bits
            flat = (cells[:, None] * self._channels + np.arange(self._channels))[seen]
            total = np.concatenate([self._sum, values[seen]])
            where = np.concatenate([np.arange(self._channels), flat])
            sums[:] = np.bincount(where, total, sums.size).reshape(shape)
            counts += np.bincount(flat, minlength=counts.size).astype(np.float64).reshape(shape)
        else:
            row, channel = np.nonzero(seen)  # in order of arrival: the last one stays
            sums[cells[row], channel] = values[row, channel]
            counts[cells[row], channel] = 1.0
        return sums, counts

    def _out(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Let held values stand in and move the open cell behind those that are over."""
        if self.hold and len(values):
            values = self._filled(values)
        self.open += len(values)
        return values

    def _filled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        index = np.arange(self.open, self.open + len(values))
        own = np.isfinite(values)
        if own.all():
            self._held, self._held_at = values[-1].copy(), np.full(self._channels, index[-1])
            return values
        latest = np.maximum.accumulate(np.where(own, np.arange(1, len(values) + 1)[:, None], 0), axis=0)
        known = np.concatenate([self._held[None], values])
        since = np.concatenate([self._held_at[None], np.broadcast_to(index[:, None], values.shape)])
        every = np.arange(self._channels)
        filled, at = known[latest, every], since[latest, every]
        self._held, self._held_at = filled[-1].copy(), at[-1].copy()
        return np.where(index[:, None] - at <= self.hold, filled, np.nan)

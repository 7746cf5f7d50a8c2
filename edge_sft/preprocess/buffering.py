"""Windows from a stream of grid cells: the last T steps of one asset, bit for bit as `cutting` cuts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import DataError
from edge_sft.preprocess.cutting import needed
from edge_sft.preprocess.gridding import Grid
from edge_sft.preprocess.window import Window
from edge_sft.preprocess.windowing import Windowing

_SPARE = 64  # steps to append before the kept ones move to the front again


class WindowBuffer:
    """Keeps what the next window needs of one asset and emits a window every ``hop`` steps."""

    def __init__(self, windowing: Windowing, asset: str) -> None:
        self._windowing = windowing
        self._asset = asset
        self._needed = needed(windowing)
        width = len(windowing.names)
        room = 2 * windowing.length + _SPARE
        self._values = np.zeros((room, width), np.float32)
        self._valid = np.zeros((room, width), np.float32)
        self._counts = np.zeros(room)  # valid values of each step, age left out
        self._begin, self._end = 0, 0  # steps that are kept
        self._total = 0.0  # valid values among the last T
        self._run = -1

    def push(self, grid: Grid) -> list[Window]:
        """Take completed cells and return the windows that end with one of them, oldest first."""
        windows: list[Window] = []
        if not len(grid):
            return windows
        counts = grid.valid[:, : len(self._windowing.channels)].sum(axis=1, dtype=np.float64)
        due = (grid.index + 1) % self._windowing.hop == 0
        begins = np.empty(len(grid), np.bool_)
        begins[0] = grid.run[0] != self._run
        begins[1:] = grid.run[1:] != grid.run[:-1]
        stops = due.copy()
        stops[:-1] |= begins[1:]
        stops[-1] = True
        at = 0
        for stop in (np.flatnonzero(stops) + 1).tolist():
            if begins[at]:
                self._run = int(grid.run[at])
                self._begin, self._end, self._total = 0, 0, 0.0
            self._append(grid.values[at:stop], grid.valid[at:stop], counts[at:stop])
            if due[stop - 1] and self._total >= self._needed:
                windows.append(self._window(float(grid.time[stop - 1])))
            at = stop
        return windows

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all there is to know for going on exactly from here."""
        kept = slice(self._begin, self._end)
        return {
            "run": np.array(self._run),
            "values": self._values[kept].copy(),
            "valid": self._valid[kept].copy(),
        }

    @classmethod
    def restore(cls, windowing: Windowing, asset: str, state: Mapping[str, NDArray[Any]]) -> WindowBuffer:
        """Go on from a state.

        Raises:
            DataError: The state belongs to another windowing or is damaged.
        """
        buffer = cls(windowing, asset)
        try:
            values, valid = np.asarray(state["values"], np.float32), np.asarray(state["valid"], np.float32)
            width = len(windowing.names)
            if values.shape != valid.shape or values.shape[1:] != (width,) or len(values) > windowing.length:
                raise DataError("kept window state", "belongs to another windowing", "Start without it.")
            buffer._run = int(state["run"])
        except (KeyError, ValueError, TypeError) as error:
            raise DataError("kept window state", f"is damaged ({error})", "Start without it.") from error
        counts = valid[:, : len(windowing.channels)].sum(axis=1, dtype=np.float64)
        buffer._end = len(values)
        buffer._values[: len(values)], buffer._valid[: len(values)] = values, valid
        buffer._counts[: len(values)] = counts
        buffer._total = float(counts.sum())
        return buffer

    def _append(self, values: NDArray[np.float32], valid: NDArray[np.float32], counts: NDArray[np.float64]) -> None:
        """Keep the last T of what is kept and these steps of the same run."""
        length = self._windowing.length
        if len(counts) > length:
            values, valid, counts = values[-length:], valid[-length:], counts[-length:]
        over = self._end - self._begin + len(counts) - length
        if over > 0:
            self._total -= float(self._counts[self._begin : self._begin + over].sum())
            self._begin += over
        stop = self._end + len(counts)
        if stop > len(self._counts):
            kept = slice(self._begin, self._end)
            size = self._end - self._begin
            for array in (self._values, self._valid, self._counts):
                array[:size] = array[kept].copy()
            self._begin, self._end, stop = 0, size, size + len(counts)
        place = slice(self._end, stop)
        self._values[place], self._valid[place], self._counts[place] = values, valid, counts
        self._end = stop
        self._total += float(counts.sum())

    def _window(self, end: float) -> Window:
        kept = slice(self._begin, self._end)
        size = self._end - self._begin
        shape = (self._windowing.length, self._values.shape[1])
        values, valid = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        values[shape[0] - size :], valid[shape[0] - size :] = self._values[kept], self._valid[kept]
        return Window(asset=self._asset, end=end, values=values, valid=valid)

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
        self._counts = np.zeros(room, np.int64)  # valid values of each step, age left out
        self._begin, self._end = 0, 0  # steps that are kept
        self._total = 0  # valid values among the last T
        self._run = -1

    def push(self, grid: Grid) -> list[Window]:
        """Take completed cells and return the windows that end with one of them, oldest first."""
        windows: list[Window] = []
        if not len(grid):
            return windows
        counts = grid.valid[:, : len(self._windowing.channels)].sum(axis=1, dtype=np.float64).astype(np.int64)
        hop = self._windowing.hop
        index, run, time = grid.index.tolist(), grid.run.tolist(), grid.time.tolist()
        for row, count in enumerate(counts.tolist()):
            if run[row] != self._run:
                self._run = run[row]
                self._begin = self._end = self._total = 0
            self._append(grid.values[row], grid.valid[row], count)
            if (index[row] + 1) % hop == 0 and self._total >= self._needed:
                windows.append(self._window(time[row]))
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
        counts = valid[:, : len(windowing.channels)].sum(axis=1, dtype=np.float64).astype(np.int64)
        buffer._end = len(values)
        buffer._values[: len(values)], buffer._valid[: len(values)] = values, valid
        buffer._counts[: len(values)] = counts
        buffer._total = int(counts.sum())
        return buffer

    def _append(self, values: NDArray[np.float32], valid: NDArray[np.float32], count: int) -> None:
        if self._end - self._begin == self._windowing.length:
            self._total -= int(self._counts[self._begin])
            self._begin += 1
        if self._end == len(self._counts):
            kept = slice(self._begin, self._end)
            size = self._end - self._begin
            for array in (self._values, self._valid, self._counts):
                array[:size] = array[kept].copy()
            self._begin, self._end = 0, size
        self._values[self._end], self._valid[self._end], self._counts[self._end] = values, valid, count
        self._end += 1
        self._total += count

    def _window(self, end: float) -> Window:
        kept = slice(self._begin, self._end)
        size = self._end - self._begin
        shape = (self._windowing.length, self._values.shape[1])
        values, valid = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        values[shape[0] - size :], valid[shape[0] - size :] = self._values[kept], self._valid[kept]
        return Window(asset=self._asset, end=end, values=values, valid=valid)

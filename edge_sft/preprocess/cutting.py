"""Windows from a whole grid: where the stream would emit one, and what it would hold. Vectorised."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_sft.preprocess.gridding import Grid, grid_run
from edge_sft.preprocess.windowing import Windowing

__all__ = ["cut", "ends_of", "grid_run"]


def ends_of(windowing: Windowing, grid: Grid) -> NDArray[np.int64]:
    """Return the rows of the grid at which the stream emits a window, int64 [n].

    Every ``hop`` steps of a run, counted so that with hop = length the windows tile it, where at least ``min_valid``
    of the channels' values are valid (``age`` does not count; steps before the run began are not valid).
    """
    rows = np.arange(len(grid))
    starts = _starts(grid)
    counts = grid.valid[:, : len(windowing.channels)].sum(axis=1, dtype=np.float64)
    total = np.concatenate([[0.0], np.cumsum(counts)])  # whole numbers: exact
    held = total[1:] - total[np.maximum(starts, rows - windowing.length + 1)]
    return np.flatnonzero(((grid.index + 1) % windowing.hop == 0) & (held >= needed(windowing)))


def cut(windowing: Windowing, grid: Grid, ends: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cut the windows that end at these rows: values and valid, float32 [n, T, C'], padded in front with zeros."""
    ends = np.asarray(ends, dtype=np.int64)
    rows = ends[:, None] + np.arange(1 - windowing.length, 1)
    there = np.maximum(rows, 0)
    inside = (rows >= 0) & (grid.run[there] == grid.run[ends][:, None])
    values, valid = grid.values[there], grid.valid[there]
    if inside.all():
        return values, valid
    values[~inside] = 0.0  # not × 0, which would leave −0
    valid[~inside] = 0.0
    return values, valid


def needed(windowing: Windowing) -> float:
    """Return how many valid values a window must hold to be worth deciding."""
    return windowing.min_valid * windowing.length * len(windowing.channels) * (1 - 1e-9)


def _starts(grid: Grid) -> NDArray[np.int64]:
    """Return for each row the row at which its run begins in this grid."""
    begins = np.flatnonzero(np.diff(grid.run, prepend=grid.run[:1] - 1))
    return np.repeat(begins, np.diff(begins, append=len(grid)))

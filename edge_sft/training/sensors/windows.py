"""Runs → windows with what is known of each: the same grid and cutting as on the device, all at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.dataset import SplitName
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.preprocess import Windowing
from edge_sft.sensor_recipe import SensorRecipe

_MOST_BYTES = 512 * 2**20  # of windows that lie in memory together
_LEAST_WINDOWS = 100


@dataclass(frozen=True)
class Windows:
    """n windows of some runs; arrays are parallel.

    Attributes:
        values: float32 [n, T, C'], finite, 0 where not valid.
        valid: float32 [n, T, C'] in {0, 1}.
        run: int64 [n], index into the ``runs`` they were cut from.
        row: int64 [n], row of the run's grid at which the window ends.
        end: float64 [n], time of that row.
        label: int64 [n], label of the newest raw row that the window saw, -1 = unknown; None without labels.
        rul: float64 [n], remaining life there, not capped, NaN = unknown; None where no run knows it.
        group: int64 [n], the same number for windows of the same group (within one call).
    """

    values: NDArray[np.float32]
    valid: NDArray[np.float32]
    run: NDArray[np.int64]
    row: NDArray[np.int64]
    end: NDArray[np.float64]
    label: NDArray[np.int64] | None
    rul: NDArray[np.float64] | None
    group: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.run)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Windows:
        """Return the windows at these positions (or where True)."""
        arrays = ((f.name, getattr(self, f.name)) for f in fields(self))
        picked: dict[str, Any] = {name: None if array is None else array[index] for name, array in arrays}
        return Windows(**picked)


def windows_of(recipe: SensorRecipe, dataset: SensorDataset, split: SplitName) -> Windows:
    """Cut all windows of one split, as a device that streamed these runs would have seen them.

    ``run`` indexes ``dataset.split(split)``. A split without runs gives 0 windows of the right shape.
    """
    runs = dataset.split(split)
    return concatenated(list(iterate(recipe.windowing(), runs)), recipe.windowing())


def iterate(windowing: Windowing, runs: tuple[Run, ...]) -> Iterator[Windows]:
    """Cut run by run, for splits whose windows do not fit into memory at once."""
    groups = {name: number for number, name in enumerate(sorted({run.group for run in runs}))}
    for number, run in enumerate(runs):
        yield cut_run(windowing, run, number, groups[run.group])


class Laid:
    """One run on its grid, its windows not cut yet: those of a recording of months do not fit into memory at once.

    Attributes:
        end: float64 [n], end of every window that the device would see.
        label: int64 [n], label of the newest raw row that each window saw; None without labels.
    """

    def __init__(self, windowing: Windowing, run: Run, number: int = 0, group: int = 0) -> None:
        from edge_sft.preprocess.cutting import ends_of, grid_run

        self._windowing, self._run, self._number, self._group = windowing, run, number, group
        self._grid = grid_run(windowing, run.time, run.values)
        self._rows = ends_of(windowing, self._grid)
        self.end = self._grid.time[self._rows]
        self._newest = None if run.labels is None and run.rul is None else run.newest(self.end)
        self.label = None if run.labels is None else run.labels[self._newest]

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Windows:
        """Cut the windows at these positions (or where True)."""
        from edge_sft.preprocess.cutting import cut

        rows, run = self._rows[index], self._run
        values, valid = cut(self._windowing, self._grid, rows)
        return Windows(
            values=values,
            valid=valid,
            run=np.full(len(rows), self._number, dtype=np.int64),
            row=rows,
            end=self.end[index],
            label=None if self.label is None else self.label[index],
            rul=None if run.rul is None or self._newest is None else run.rul[self._newest[index]],
            group=np.full(len(rows), self._group, dtype=np.int64),
        )


def cut_run(windowing: Windowing, run: Run, number: int = 0, group: int = 0) -> Windows:
    """Cut one run's windows; ``number`` and ``group`` become their ``run`` and ``group``."""
    return Laid(windowing, run, number, group).take(slice(None))


def pieces(windowing: Windowing, run: Run, number: int, group: int, most: int) -> Iterator[Windows]:
    """Cut one run's windows, at most so many at once."""
    laid = Laid(windowing, run, number, group)
    for start in range(0, len(laid), most):
        yield laid.take(slice(start, start + most))


def affordable(windowing: Windowing, most: int) -> int:
    """Return how many windows may lie in memory together: ``most``, fewer of long or wide ones."""
    return max(_LEAST_WINDOWS, min(most, _MOST_BYTES // (8 * windowing.length * len(windowing.names))))


def concatenated(parts: list[Windows], windowing: Windowing) -> Windows:
    """Join windows of several runs; labels and lives that only some runs know are unknown for the others."""
    if not parts:
        empty = np.zeros((0, windowing.length, len(windowing.names)), dtype=np.float32)
        none = np.zeros(0, dtype=np.int64)
        return Windows(empty, empty, none, none, np.zeros(0), None, None, none)
    if len(parts) == 1:
        return parts[0]
    labelled, lived = any(p.label is not None for p in parts), any(p.rul is not None for p in parts)
    unknown = [np.full(len(part), -1, dtype=np.int64) if part.label is None else part.label for part in parts]
    lives = [np.full(len(part), np.nan) if part.rul is None else part.rul for part in parts]
    return Windows(
        values=np.concatenate([part.values for part in parts]),
        valid=np.concatenate([part.valid for part in parts]),
        run=np.concatenate([part.run for part in parts]),
        row=np.concatenate([part.row for part in parts]),
        end=np.concatenate([part.end for part in parts]),
        label=np.concatenate(unknown) if labelled else None,
        rul=np.concatenate(lives) if lived else None,
        group=np.concatenate([part.group for part in parts]),
    )

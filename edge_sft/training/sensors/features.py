"""Features of windows, computed once by the graph's own front: nets are trained on what serving will see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_sft.data.sensors.dataset import Run
from edge_sft.models.sensors.normalise import Normaliser
from edge_sft.models.sensors.regressor import Front, build_front, lifelong
from edge_sft.preprocess import Windowing
from edge_sft.sensor_recipe import SensorRecipe
from edge_sft.training.sensors.windows import Windows, pieces

AUTO = "mlp+tcn"  # by group cross-validation on C-MAPSS better than the MLP alone in 8 of 8 folds
_BATCH = 2048  # windows at once: memory stays small however long a run is
_ROWS = 1_000_000  # rows that are plenty for means and standard deviations


@dataclass(frozen=True)
class Table:
    """Features of n windows; arrays are parallel.

    Attributes:
        features: float32 [n, F], not standardised.
        life: Remaining life, not capped, float64 [n], NaN = unknown.
        run: int64 [n], index into the runs they came from.
        end: float64 [n], time of the window's end.
        group: int64 [n].
    """

    features: NDArray[np.float32]
    life: NDArray[np.float64]
    run: NDArray[np.int64]
    end: NDArray[np.float64]
    group: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.run)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Table:
        """Return these rows."""
        return Table(self.features[index], self.life[index], self.run[index], self.end[index], self.group[index])


def fit_front(recipe: SensorRecipe, runs: tuple[Run, ...], statistics: tuple[str, ...]) -> Front:
    """Fit the normalisation to the grid rows of training runs and put behind it what the recipe's nets look at."""
    conditions = condition_channels(recipe)
    values, valid = grid_rows(recipe, runs)
    normaliser = Normaliser.fit(
        values,
        valid,
        conditions=conditions,
        clusters=recipe.normalise.clusters if conditions else 1,
        lifelong=lifelong(recipe.windowing()),
        seed=recipe.train.seed,
    )
    return front_of(recipe, normaliser, statistics)


def front_of(recipe: SensorRecipe, normaliser: Normaliser, statistics: tuple[str, ...]) -> Front:
    """Put behind a normalisation what the recipe's nets look at."""
    config = {"architecture": architecture(recipe), "statistics": statistics, "normalise": normaliser.config}
    front = build_front(recipe.windowing(), config)
    front.normalise.load_state_dict(normaliser.state_dict())
    return front.eval()


def condition_channels(recipe: SensorRecipe) -> tuple[int, ...]:
    """Return the indices of the channels that tell the condition; none where normalisation is global."""
    if recipe.normalise.by != "condition":
        return ()
    return tuple(recipe.windowing().names.index(name) for name in recipe.data.conditions)


def grid_rows(recipe: SensorRecipe, runs: tuple[Run, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the grid's values and validity, float32 [n, C], every so many rows where there are more than plenty."""
    from edge_sft.preprocess.cutting import grid_run

    grids = [grid_run(recipe.windowing(), run.time, run.values) for run in runs]
    every = max(1, sum(len(grid) for grid in grids) // _ROWS)
    return (
        np.concatenate([grid.values[::every] for grid in grids]),
        np.concatenate([grid.valid[::every] for grid in grids]),
    )


def architecture(recipe: SensorRecipe) -> str:
    """Return which nets there are, one of `edge_sft.models.sensors.regressor.KINDS`."""
    asked = recipe.model.architecture
    return AUTO if asked == "auto" else asked


def table_of(front: Front, windowing: Windowing, runs: tuple[Run, ...]) -> Table:
    """Compute the features of all windows of these runs, one run after the other."""
    names = {name: number for number, name in enumerate(sorted({run.group for run in runs}))}
    none = np.zeros(0, dtype=np.int64)
    parts = [Table(np.zeros((0, front.body.features), np.float32), np.zeros(0), none, np.zeros(0), none)]
    for number, run in enumerate(runs):
        parts += [_table(front, windows) for windows in pieces(windowing, run, number, names[run.group], _BATCH)]
    return Table(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.life for part in parts]),
        np.concatenate([part.run for part in parts]),
        np.concatenate([part.end for part in parts]),
        np.concatenate([part.group for part in parts]),
    )


def missing(front: Front) -> Tensor:
    """Return the features of a window of which nothing is valid, [F]."""
    nothing = torch.zeros(1, front.body.length, front.normalise.mean.shape[1])
    with torch.no_grad():
        features: Tensor = front.body(nothing, nothing)
    return features[0]


def _table(front: Front, windows: Windows) -> Table:
    with torch.no_grad():
        features = front(torch.from_numpy(windows.values), torch.from_numpy(windows.valid)).numpy()
    life = np.full(len(windows), np.nan) if windows.rul is None else windows.rul
    return Table(features, life, windows.run, windows.end, windows.group)

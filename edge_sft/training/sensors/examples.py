"""Windows → the features that a fault classifier's nets learn from, run by run, so that memory holds one run's windows.

The features are computed by the very modules that go into the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_sft.data.sensors.dataset import Run
from edge_sft.models.sensors.classifier import Fronts
from edge_sft.preprocess import Windowing
from edge_sft.progress import Progress
from edge_sft.slots.memories import spread
from edge_sft.training.sensors.windows import Laid

_BATCH = 64
_MOST = 12_000  # windows of one split; a shaft's next second tells little that is new


@dataclass(frozen=True)
class Examples:
    """n windows as features.

    Attributes:
        features: One float32 [n, F] a view.
        label: int64 [n], -1 = unknown.
        group: int64 [n], the same number for the same group, wherever it stands.
        run: int64 [n], index into the runs.
    """

    features: tuple[Tensor, ...]
    label: NDArray[np.int64]
    group: NDArray[np.int64]
    run: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> Examples:
        """Return the windows at these positions (or where True)."""
        where = torch.from_numpy(np.flatnonzero(index) if index.dtype == np.bool_ else index)
        arrays: dict[str, Any] = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "features"}
        return Examples(features=tuple(part[where] for part in self.features), **arrays)

    def views(self, places: tuple[int, ...]) -> Examples:
        """Return the same windows with these views only."""
        return Examples(tuple(self.features[place] for place in places), self.label, self.group, self.run)


def examples_of(
    fronts: Fronts,
    windowing: Windowing,
    runs: tuple[Run, ...],
    progress: Progress,
    *,
    title: str,
    channel_drop: float = 0.0,
    seed: int = 0,
) -> Examples:
    """Look at the windows of some runs, at most 12,000 evenly spread.

    Args:
        fronts: In eval mode.
        windowing: How the runs are cut.
        runs: In any order.
        progress: Told run by run.
        title: Of the progress.
        channel_drop: Share of windows that are taken a second time with one channel missing, so that the nets know
            what that looks like (where there is more than one).
        seed: Which windows and channels those are.
    """
    numbers = {name: number for number, name in enumerate(sorted({run.group for run in runs}))}
    rng = np.random.default_rng(seed)
    progress.start(title, len(runs))
    most = max(_MOST // max(len(runs), 1), 1)
    parts: list[Examples] = []
    for place, run in enumerate(runs):
        laid = Laid(windowing, run, place, numbers[run.group])
        windows = laid.take(spread(len(laid), most))
        label = np.full(len(windows), -1, dtype=np.int64) if windows.label is None else windows.label
        parts.append(Examples(look(fronts, windows.values, windows.valid), label, windows.group, windows.run))
        if channel_drop and windows.values.shape[2] > 1:
            again = windows.take(rng.random(len(windows)) < channel_drop)
            values, valid = _without_one(again.values, again.valid, rng)
            chosen = np.zeros(0, dtype=np.int64) if again.label is None else again.label
            if len(chosen):
                parts.append(Examples(look(fronts, values, valid), chosen, again.group, again.run))
        progress.advance(note=run.id)
    return _joined(parts, fronts)


def look(fronts: Fronts, values: NDArray[np.float32], valid: NDArray[np.float32]) -> tuple[Tensor, ...]:
    """Return the features of windows [n,T,C], one tensor a view."""
    batches = []
    with torch.inference_mode():
        for start in range(0, len(values), _BATCH):
            some = slice(start, start + _BATCH)
            batches.append(fronts(torch.from_numpy(values[some]), torch.from_numpy(valid[some])))
    if not batches:
        return tuple(torch.zeros(0, size) for size in fronts.sizes())
    return tuple(torch.cat(part).clone() for part in zip(*batches, strict=True))


def _without_one(
    values: NDArray[np.float32], valid: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    values, valid = values.copy(), valid.copy()
    missing = rng.integers(values.shape[2], size=len(values))
    values[np.arange(len(values)), :, missing] = 0.0
    valid[np.arange(len(values)), :, missing] = 0.0
    return values, valid


def _joined(parts: list[Examples], fronts: Fronts) -> Examples:
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        return Examples(tuple(torch.zeros(0, size) for size in fronts.sizes()), none, none, none)
    return Examples(
        features=tuple(torch.cat(tensors) for tensors in zip(*(part.features for part in parts), strict=True)),
        label=np.concatenate([part.label for part in parts]),
        group=np.concatenate([part.group for part in parts]),
        run=np.concatenate([part.run for part in parts]),
    )

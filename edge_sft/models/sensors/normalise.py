"""Normalisation inside the graph: globally, or by the nearest operating condition of each grid step.

What is not valid comes out as 0, the mean. Operators: Sub, Mul, ReduceSum, ArgMin, Gather, Clip; static shapes but N.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

LIMIT = 8.0  # standard deviations; a wild value says "far out" and no more, and INT8 ranges stay usable
_DEAD = 1e-6  # a channel that moves less than this share of its level says nothing


class Normaliser(nn.Module):
    """``window``, ``valid`` float32 [N,T,C] → normalised [N,T,C] (0 where not valid) and its validity [N,T,C].

    Buffers: ``mean``, ``scale`` [K,C] (scale = 1/std, 0 for a channel without life), ``centres`` [K,D] and ``weight``
    [D] of the D condition channels. With K = 1 there is no lookup. A condition channel that is missing at a step is
    left out of the distance; where none is valid, the whole step is not valid, for nothing can be compared.
    """

    mean: Tensor
    scale: Tensor
    centres: Tensor
    weight: Tensor

    def __init__(self, channels: int, conditions: tuple[int, ...] = (), clusters: int = 1) -> None:
        super().__init__()
        self.conditions = conditions if clusters > 1 else ()
        self.register_buffer("mean", torch.zeros(clusters, channels))
        self.register_buffer("scale", torch.ones(clusters, channels))
        self.register_buffer("centres", torch.zeros(clusters, len(self.conditions)))
        self.register_buffer("weight", torch.ones(len(self.conditions)))

    @property
    def config(self) -> dict[str, Any]:
        """JSON values from which `from_config` makes an empty one of the same shapes."""
        return {
            "channels": self.mean.shape[1],
            "conditions": list(self.conditions),
            "clusters": self.mean.shape[0],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Normaliser:
        """Make one whose buffers a state dict then fills."""
        return cls(int(config["channels"]), tuple(config["conditions"]), int(config["clusters"]))

    @classmethod
    def fit(
        cls,
        values: NDArray[np.float32],
        valid: NDArray[np.float32],
        conditions: tuple[int, ...] = (),
        clusters: int = 1,
        lifelong: tuple[int, ...] = (),
        seed: int = 0,
    ) -> Normaliser:
        """Fit to grid rows (of the training machines, never of those it is judged by).

        Args:
            values: [n, C], finite.
            valid: [n, C] in {0, 1}.
            conditions: Indices of the channels that say how the machine is run; empty = global.
            clusters: Most operating conditions to look for; fewer where the rows show fewer.
            lifelong: Indices of channels that do not depend on the condition (age): normalised globally.
            seed: Of the clustering.
        """
        x, v = values.astype(np.float64), valid.astype(np.float64)
        found = _found(x, v, conditions, clusters, seed)
        normaliser = cls._filled(*_moments(x, v, found.nearest, found.count, lifelong), found.conditions)
        if found.conditions:
            points, mine = x[:, list(conditions)], found.nearest
            raw = np.stack([points[mine == k].mean(axis=0) for k in range(found.count)])
            normaliser.centres.copy_(torch.from_numpy(raw))
            normaliser.weight.copy_(torch.from_numpy(found.weight))
        return normaliser

    @classmethod
    def given(
        cls,
        mean: NDArray[np.float32],
        scale: NDArray[np.float32],
        centres: NDArray[np.float32],
        weight: NDArray[np.float32],
        conditions: tuple[int, ...],
    ) -> Normaliser:
        """Make one of its buffers; rows that repeat the first centre are cut off: they would never be the nearest."""
        own = len(mean)
        while own > 1 and (centres[own - 1] == centres[0]).all():
            own -= 1
        normaliser = cls._filled(mean[:own].astype(np.float64), scale[:own].astype(np.float64), conditions)
        if normaliser.conditions:
            normaliser.centres.copy_(torch.from_numpy(centres[:own]))
            normaliser.weight.copy_(torch.from_numpy(weight))
        return normaliser

    @classmethod
    def _filled(
        cls, mean: NDArray[np.float64], scale: NDArray[np.float64], conditions: tuple[int, ...] = ()
    ) -> Normaliser:
        normaliser = cls(mean.shape[1], conditions, mean.shape[0])
        normaliser.mean.copy_(torch.from_numpy(mean))
        normaliser.scale.copy_(torch.from_numpy(scale))
        return normaliser

    def condition(self, window: Tensor, valid: Tensor) -> Tensor:
        """Return the index of the nearest operating condition, int64 [N,T]; ties go to the first."""
        value = torch.stack([window[..., c] for c in self.conditions], dim=-1)
        known = torch.stack([valid[..., c] for c in self.conditions], dim=-1)
        off = (value.unsqueeze(-2) - self.centres) * self.weight * known.unsqueeze(-2)
        return torch.argmin((off * off).sum(dim=-1), dim=-1)

    def forward(self, window: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised window and its validity, both [N,T,C]."""
        if not self.conditions:
            return standardise(window, valid, self.mean[0], self.scale[0]), valid
        known = torch.stack([valid[..., c] for c in self.conditions], dim=-1).amax(dim=-1, keepdim=True)
        index = self.condition(window, valid)
        valid = valid * known
        mean, scale = functional.embedding(index, self.mean), functional.embedding(index, self.scale)
        return standardise(window, valid, mean, scale), valid


@dataclass(frozen=True)
class _Found:
    """Operating conditions that rows show: of each row (-1 = not known), how many, and how distances are weighted."""

    nearest: NDArray[np.int64]
    count: int
    conditions: tuple[int, ...] = ()
    weight: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


def _found(
    x: NDArray[np.float64], v: NDArray[np.float64], conditions: tuple[int, ...], clusters: int, seed: int
) -> _Found:
    known = v[:, list(conditions)].min(axis=1) > 0 if conditions else np.zeros(len(x), dtype=bool)
    one = _Found(np.zeros(len(x), dtype=np.int64), 1)
    if clusters <= 1 or not known.any():
        return one
    points = x[known][:, list(conditions)]
    weight = distance_weight(points.std(axis=0), np.abs(points).max(axis=0))
    centres = _cluster(points * weight, clusters, seed)
    if len(centres) == 1:
        return one
    nearest = np.full(len(x), -1, dtype=np.int64)
    nearest[known] = _nearest(points * weight, centres)
    return _Found(nearest, len(centres), conditions, weight)


def distance_weight(spread: NDArray[np.float64], level: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1/spread of each condition channel [D], 0 for one that does not move."""
    return np.where(spread > _DEAD * np.maximum(level, 1e-12), 1 / np.maximum(spread, 1e-30), 0.0)


def summary(
    values: NDArray[np.float32], valid: NDArray[np.float32], conditions: tuple[int, ...], clusters: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return count, mean and standard deviation [k,C] of each channel's valid rows in each condition found.

    Rows whose condition is not known are left out. Arguments are those of `Normaliser.fit`.
    """
    x, v = values.astype(np.float64), valid.astype(np.float64)
    found = _found(x, v, conditions, clusters, seed)
    own = [found.nearest == k for k in range(found.count)]
    moments = [_mean_std(x[mine], v[mine]) for mine in own]
    count = np.stack([v[mine].sum(axis=0) for mine in own])
    return count, np.stack([mean for mean, _ in moments]), np.stack([std for _, std in moments])


def standardise(window: Tensor, valid: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Return (window − mean) · scale within ± LIMIT, 0 where not valid; mean and scale broadcast to [N,T,C]."""
    return torch.clamp((window - mean) * scale, -LIMIT, LIMIT) * valid


def _moments(
    x: NDArray[np.float64], v: NDArray[np.float64], nearest: NDArray[np.int64], clusters: int, lifelong: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    overall = _mean_std(x, v)
    mean, std = np.tile(overall[0], (clusters, 1)), np.tile(overall[1], (clusters, 1))
    for k in range(clusters):
        mine = nearest == k
        some = v[mine].sum(axis=0) >= 2  # a channel never seen under this condition keeps the overall numbers
        own = _mean_std(x[mine], v[mine])
        some[list(lifelong)] = False
        mean[k, some], std[k, some] = own[0][some], own[1][some]
    return mean, inverse(std, mean)


def inverse(std: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1/std, 0 for a channel without life."""
    dead = std <= _DEAD * np.maximum(np.abs(mean), 1e-12)
    return np.where(dead, 0.0, 1 / np.maximum(std, 1e-30))


def _mean_std(x: NDArray[np.float64], v: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    count = np.maximum(v.sum(axis=0), 1.0)
    mean = (x * v).sum(axis=0) / count
    return mean, np.sqrt((((x - mean) * v) ** 2).sum(axis=0) / count)


def _nearest(points: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.int64]:
    # one centre after the other: [n, K, D] at once is large for millions of rows
    far = np.stack([((points - centre) ** 2).sum(axis=1) for centre in centres], axis=1)
    return np.asarray(far.argmin(axis=1), dtype=np.int64)


def _cluster(points: NDArray[np.float64], most: int, seed: int) -> NDArray[np.float64]:
    """k-means from the best of a few k-means++ starts; never more centres than distinct points."""
    rng = np.random.default_rng(seed)
    some = points if len(points) <= 20_000 else points[rng.choice(len(points), 20_000, replace=False)]
    best: NDArray[np.float64] = some[:1]
    least = np.inf
    for _ in range(8):
        centres = _start(some, most, rng)
        for _ in range(30):
            nearest = _nearest(some, centres)
            moved = np.stack([some[nearest == k].mean(axis=0) for k in np.unique(nearest)])
            if moved.shape == centres.shape and np.allclose(moved, centres, rtol=0, atol=1e-9):
                break
            centres = moved
        cost = float(((some - centres[_nearest(some, centres)]) ** 2).sum())
        if cost < least:
            best, least = centres, cost
    return best[np.lexsort(best.T[::-1])]


def _start(points: NDArray[np.float64], most: int, rng: np.random.Generator) -> NDArray[np.float64]:
    centres: NDArray[np.float64] = points[rng.integers(len(points))][None]
    while len(centres) < most:
        far = ((points - centres[_nearest(points, centres)]) ** 2).sum(axis=1)
        if far.sum() <= 1e-12:
            break
        centres = np.vstack([centres, points[rng.choice(len(points), p=far / far.sum())]])
    return centres

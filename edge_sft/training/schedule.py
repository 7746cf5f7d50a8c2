"""Everything of a training that is known before it starts: how many steps, which pictures when, which rates.

Pure functions of the recipe, the data's labels and the seed: that is what makes a resumed training identical.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_sft.recipe import TrainSection

WARM_SHARE = 0.1
EPOCHS, FEWEST, MOST = 12, 120, 600
# 320 million input pixels are about four minutes of Lite0 on two cores: what `auto` may cost without a GPU
_PIXELS = 320_000_000
_GPU_TIMES = 10


def step_count(train: TrainSection, pictures: int, pixels: int, *, gpu: bool = False) -> int:
    """Return the number of optimiser steps, at most; early stopping may end sooner.

    Args:
        train: The recipe's ``[train]``; a number of its own is taken as it is.
        pictures: How many there are to train on.
        pixels: Of one picture as the model sees it.
        gpu: Whether a GPU does the work: ``auto`` may then take ten times as many.
    """
    if train.steps != "auto":
        return train.steps
    times = _GPU_TIMES if gpu else 1
    wanted = math.ceil(EPOCHS * pictures / train.batch_size)
    affordable = min(MOST, _PIXELS // (pixels * train.batch_size)) * times
    return max(FEWEST, min(wanted, affordable))


def validate_every(steps: int) -> int:
    """Return after how many steps to validate: about ten times in all."""
    return max(1, math.ceil(steps / 10))


def class_probabilities(labels: NDArray[np.int64], weights: NDArray[np.float32], balance: float) -> NDArray[np.float64]:
    """Return how often each class shall be drawn, [K]: its share to the power of ``1 - balance``."""
    mass = np.bincount(labels, weights=weights.astype(np.float64))
    share = np.where(mass > 0, mass / mass.sum(), 0.0)
    drawn = np.where(share > 0, np.power(np.maximum(share, 1e-12), 1.0 - balance), 0.0)
    return np.asarray(drawn / drawn.sum(), dtype=np.float64)


def order(
    labels: NDArray[np.int64], weights: NDArray[np.float32], *, steps: int, batch: int, balance: float, seed: int
) -> NDArray[np.int64]:
    """Return which pictures each step takes, [steps, batch].

    Every batch holds the classes in their drawn proportion as nearly as whole numbers allow (systematic
    sampling), and a class goes through all its pictures before any comes again.
    """
    rng = np.random.default_rng([seed, 1])
    drawn = np.cumsum(class_probabilities(labels, weights, balance))
    points = (rng.random((steps, 1)) + np.arange(batch)) / batch
    classes = np.minimum(np.searchsorted(drawn, points, side="right"), len(drawn) - 1)
    chosen = np.empty((steps, batch), dtype=np.int64)
    for label in np.unique(classes):
        places = classes == label
        chosen[places] = _rounds(np.flatnonzero(labels == label), int(places.sum()), rng)
    return chosen


def rate_factor(step: int, steps: int) -> float:
    """Return what the learning rates are multiplied by: a short linear warm-up, then a cosine to zero."""
    warm = max(1, int(steps * WARM_SHARE))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def step_seed(seed: int, step: int) -> int:
    """Return the seed of all randomness inside one step (augmentation, dropout)."""
    return int(np.random.SeedSequence([seed, 2, step]).generate_state(1, np.uint64)[0] >> 1)


def _rounds(members: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    rounds = [rng.permutation(members) for _ in range(-(-count // len(members)))]
    return np.concatenate(rounds)[:count]

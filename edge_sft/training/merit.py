"""How good a model is on validation, as one number to choose by: pure functions of logits and labels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Balanced accuracy moves in steps of one picture and picks badly on small validation splits; the class-balanced
# log-loss (after its best temperature, so that confidence alone wins nothing) is smooth. Their sum is both.
_LOSS_SHARE = 0.5
_TEMPERATURES = np.geomspace(0.25, 8.0, 31)


def merit(logits: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float32]) -> float:
    """Return how good a model is: balanced accuracy minus half its relative balanced log-loss; higher is better."""
    if not len(labels):
        return 0.0
    share = _balanced_share(labels, weights)
    right = float((share * (logits.argmax(1) == labels)).sum())
    return right - _LOSS_SHARE * _loss(logits, labels, share) / math.log(logits.shape[1])


def balanced_accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the mean recall over the classes that occur."""
    if not len(labels):
        return 0.0
    share = _balanced_share(labels, np.ones(len(labels), dtype=np.float32))
    return float((share * (logits.argmax(1) == labels)).sum())


def _balanced_share(labels: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    mass = np.bincount(labels, weights=weights.astype(np.float64))
    present = int((mass > 0).sum())
    return np.asarray(weights / np.maximum(mass[labels], 1e-12) / max(present, 1), dtype=np.float64)


def _loss(logits: NDArray[np.float32], labels: NDArray[np.int64], share: NDArray[np.float64]) -> float:
    """Return the weighted log-loss at its best temperature."""
    rows = np.arange(len(labels))
    best = math.inf
    for temperature in _TEMPERATURES:
        scaled = logits.astype(np.float64) / temperature
        top = scaled.max(1)
        each = top + np.log(np.exp(scaled - top[:, None]).sum(1)) - scaled[rows, labels]
        best = min(best, float((share * each).sum()))
    return best

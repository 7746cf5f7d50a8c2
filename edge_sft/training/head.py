"""The head on frozen features: logistic regression, its L2 chosen by grouped cross-validation on training data.

It is the starting point of fine-tuning, the baseline that fine-tuning must beat on validation, and the answer
where data are too few for more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edge_sft.training.merit import merit

# L2 against the mean loss, on standardised features, strong first: each fit starts from the one before
STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
_FOLDS = 4
# Few groups a class make cross-validation flat and noisy: magnetic_tile's merits lie within 0.03 while validation goes
# from 0.19 to 0.45. So a strength must earn its distance from the usual one, by this much a decade.
_USUAL, _DOUBT = 0.3, 0.02


@dataclass(frozen=True)
class Head:
    """Weight [K,D] and bias [K] on raw features, and the L2 strength that was chosen."""

    weight: Tensor
    bias: Tensor
    strength: float


def fit_head(features: Tensor, labels: Tensor, weights: Tensor, groups: Sequence[str], n_labels: int) -> Head:
    """Fit a regularised logistic regression.

    Args:
        features: float32 [N,D].
        labels: int64 [N].
        weights: float32 [N], sample weights with class balance already in them.
        groups: [N]; a group stays on one side of every fold.
        n_labels: K.
    """
    mean, std = features.mean(0), features.std(0).clamp_min(1e-4)
    scaled = (features - mean) / std
    strength = _choose(scaled, labels, weights, groups, n_labels)
    solution = _path(scaled, labels, weights, n_labels, until=strength)[-1]
    weight = solution[:, :-1] / std
    return Head(weight, solution[:, -1] - weight @ mean, strength)


def fold_numbers(labels: NDArray[np.int64], groups: Sequence[str], folds: int) -> NDArray[np.int64]:
    """Assign samples to folds: whole groups, rarest class first, each to the fold with fewest of its class."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    classes = int(labels.max()) + 1
    frequency = np.bincount(labels, minlength=classes)
    counts = np.zeros((folds, classes))
    result = np.zeros(len(labels), dtype=np.int64)
    ordered = sorted(members.values(), key=lambda rows: (frequency[labels[rows[0]]], -len(rows), rows[0]))
    for rows in ordered:
        histogram = np.bincount(labels[rows], minlength=classes)
        load = counts @ (histogram / np.maximum(frequency, 1)) * 1e6 + counts.sum(1)
        fold = int(load.argmin())
        counts[fold] += histogram
        result[rows] = fold
    return result


def _choose(features: Tensor, labels: Tensor, weights: Tensor, groups: Sequence[str], n_labels: int) -> float:
    folds = min(_FOLDS, len(set(groups)))
    if folds < 2:
        return 0.1
    numbers = torch.from_numpy(fold_numbers(labels.cpu().numpy(), groups, folds)).to(labels.device)
    outside_logits = torch.zeros(len(STRENGTHS), len(labels), n_labels)
    for fold in range(folds):
        inside, outside = numbers != fold, numbers == fold
        if int(labels[inside].min()) == int(labels[inside].max()) or not bool(outside.any()):
            continue
        path = _path(features[inside], labels[inside], weights[inside], n_labels, until=STRENGTHS[-1])
        for index, solution in enumerate(path):
            outside_logits[index, outside] = features[outside] @ solution[:, :-1].T + solution[:, -1]
    truth, heavy = labels.numpy(), weights.numpy()
    # by the same measure as everything is chosen by: log-loss alone asks for far too much L2 on rare classes
    merits = [merit(logits.numpy(), truth, heavy) for logits in outside_logits]
    doubts = [_DOUBT * abs(math.log10(strength / _USUAL)) for strength in STRENGTHS]
    return STRENGTHS[int(np.argmax(np.subtract(merits, doubts)))]


def _path(features: Tensor, labels: Tensor, weights: Tensor, n_labels: int, *, until: float) -> list[Tensor]:
    """Fit along the strengths down to ``until``; each solution is [K, D + 1], bias last."""
    share = weights / weights.sum()
    solution = torch.zeros(n_labels, features.shape[1] + 1, device=features.device)
    path = []
    for strength in STRENGTHS:
        solution = _minimise(solution, features, labels, share, strength)
        path.append(solution)
        if strength <= until:
            break
    return path


def _minimise(start: Tensor, features: Tensor, labels: Tensor, share: Tensor, strength: float) -> Tensor:
    variable = start.clone().requires_grad_(True)
    solver = torch.optim.LBFGS([variable], max_iter=30, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        logits = features @ variable[:, :-1].T + variable[:, -1]
        each = functional.cross_entropy(logits, labels, reduction="none")
        value = (each * share).sum() + 0.5 * strength * variable[:, :-1].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    return variable.detach()

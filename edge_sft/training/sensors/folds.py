"""Folds for group cross-validation where a class has few machines: each fold leaves out some of every class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1


def group_folds(labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, seed: int) -> list[NDArray[np.bool_]]:
    """Return which windows each fold leaves out; a group is left out exactly once, or never.

    Never where it is the only one of its class: nothing could be learnt about the class without it. Classes with
    fewer groups than there are folds are missing from some folds; so judge by what all folds left out together.

    Args:
        labels: Class of each window, [n].
        groups: Machine, bearing or run of each window, [n].
        folds: At most so many; fewer where no class has as many groups.
        seed: Of which groups are left out together.
    """
    rng = np.random.default_rng(seed)
    kinds, counts = _kinds(labels, groups)
    members = [rng.permutation([group for group, kind in kinds.items() if kind == label]) for label in counts]
    most = min(folds, max((len(part) for part in members), default=0))
    left_out = [
        np.isin(groups, [group for part in members if len(part) > 1 for group in part[fold::most]])
        for fold in range(most)
    ]
    return [part for part in left_out if part.any() and not part.all()]


def balanced_weights(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return weights [n] with mean 1 by which classes weigh alike, and within a class its groups."""
    weights = np.zeros(len(labels))
    for label in np.unique(labels):
        owned = np.unique(groups[labels == label])
        for group in owned:
            here = (labels == label) & (groups == group)
            weights[here] = 1 / (len(owned) * here.sum())
    return weights / weights.mean() if len(weights) else weights


def _kinds(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> tuple[dict[int, int], list[int]]:
    """Return each group's most frequent class, and the classes."""
    kinds = {int(group): int(np.bincount(labels[groups == group]).argmax()) for group in np.unique(groups)}
    return kinds, sorted(set(kinds.values()))

"""Choose a few samples that stand for many: the classes in turn, from doubtful to sure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

AT_MOST = 16  # golden samples: enough to show a wrong engine, few enough to repeat at every deployment


def choose(labels: NDArray[np.int64], probabilities: NDArray[np.float32], count: int = AT_MOST) -> list[int]:
    """Choose positions: the classes in turn, and within each from the least to the most confident.

    Args:
        labels: True labels [N].
        probabilities: The checkpoint's [N,K]; confidence is that of the most probable label.
        count: How many at most.
    """
    confidence = probabilities.max(axis=1)
    classes = [int(label) for label in np.unique(labels)]
    share = max(1, count // len(classes))
    chosen: list[int] = []
    for label in classes:
        mine = np.flatnonzero(labels == label)
        ordered = mine[np.argsort(confidence[mine], kind="stable")]
        places = np.unique(np.linspace(0, len(ordered) - 1, min(share, len(ordered))).round().astype(int))
        chosen.extend(int(position) for position in ordered[places])
    return sorted(chosen[:count])

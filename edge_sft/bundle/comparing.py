"""How far apart two answers to the same sample are: one number, in shares of what the outputs count in.

Makers set tolerances in it, devices compare in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.bundle.golden_scale import output_scale

Arrays = dict[str, NDArray[Any]]

BOXES = frozenset({"boxes", "scores", "labels"})
LEAST_SCORE = 0.05  # boxes below it are noise that another rounding orders otherwise


def scales(expected: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Return the scale of each output, over all samples at hand."""
    return {name: output_scale(name, array) for name, array in expected.items()}


def difference(want: Arrays, got: Arrays, scale: Mapping[str, float]) -> float:
    """Return the largest difference of one batch of answers [N,…]; NaN where one is not finite.

    Boxes have no fixed order: each is compared with the best box of its label in the other answer, by its score where
    they overlap by half or more, and by how little they overlap; one without a partner differs by its whole score.
    Only outputs that ``want`` has are looked at.
    """
    if not all(np.isfinite(got[name]).all() and np.isfinite(want[name]).all() for name in want):
        return float("nan")
    if want.keys() >= BOXES:
        return max((_boxes(want, got, index) for index in range(len(want["scores"]))), default=0.0)
    return max(
        float(np.max(np.abs(got[name].astype(np.float64) - want[name]), initial=0.0)) / scale[name] for name in want
    )


def overlap(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Return the intersection over union of boxes [n,4] and [m,4] xyxy, [n,m]; 0 for empty ones."""
    a, b = first.astype(np.float64)[:, None], second.astype(np.float64)[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    common = sides[..., 0] * sides[..., 1]
    both = _area(a) + _area(b) - common
    return np.asarray(common / np.maximum(both, 1e-12))


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    sides = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None)
    return np.asarray(sides[..., 0] * sides[..., 1])


def _boxes(want: Arrays, got: Arrays, index: int) -> float:
    one, other = ({name: arrays[name][index] for name in BOXES} for arrays in (want, got))
    return max(_unmatched(one, other), _unmatched(other, one))


def _unmatched(these: Arrays, others: Arrays) -> float:
    """Return the largest difference of a box among ``these`` from its partner."""
    told = these["scores"] >= LEAST_SCORE
    if not told.any():
        return 0.0
    score = these["scores"][told].astype(np.float64)
    iou = overlap(these["boxes"][told], others["boxes"])
    same = these["labels"][told][:, None] == others["labels"][None]
    apart = np.abs(score[:, None] - others["scores"][None].astype(np.float64))
    # a box of the padding has score 0: nobody's partner
    fits = same & (iou >= 0.5) & (others["scores"][None] > 0)
    cost = np.where(fits, np.maximum(apart, score[:, None] * (1 - iou)), score[:, None])
    return float(cost.min(axis=1).max())

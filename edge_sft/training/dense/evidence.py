"""How much speaks against each picture as its policy counts it: what thresholds are chosen by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sft.metrics.detection import Boxes
from edge_sft.metrics.segmentation import regions
from edge_sft.training.dense.samples import Samples

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Shown:
    """What P pictures truly show, good or not [P], their weights [P], and the picture of each tile [N]."""

    good: NDArray[np.bool_]
    weights: Numbers
    picture: NDArray[np.int64]

    def highest(self, tiles: Numbers) -> Numbers:
        """Return the highest value of each picture's tiles, [P]; 0 where it has none."""
        result = np.zeros(len(self.good))
        np.maximum.at(result, self.picture, tiles)
        return result


def shown(samples: Samples, defects: Sequence[int]) -> Shown:
    """Say what pictures show; ``defects`` are the positions of the defect labels among the recipe's."""
    good = np.ones(len(samples.items), dtype=np.bool_)
    for picture, drawn in zip(samples.picture, samples.drawn, strict=True):
        marked = np.unique(drawn.labels) if drawn.mask is None else np.unique(drawn.mask).astype(np.int64) - 1
        if np.isin(marked, defects).any():
            good[picture] = False
    weights = np.array([item.weight for item in samples.items], dtype=np.float64)
    return Shown(good, weights, samples.picture)


def of_boxes(found: Sequence[Boxes], thresholds: Sequence[float], defects: Sequence[int]) -> Numbers:
    """Return each tile's highest score of a defect's box against its label's threshold, [N]; 1 = at the threshold."""
    limits = np.asarray(thresholds, dtype=np.float64)
    result = np.zeros(len(found))
    for index, boxes in enumerate(found):
        ratios = np.where(np.isin(boxes.labels, defects), boxes.scores / limits[boxes.labels], 0.0)
        result[index] = ratios.max(initial=0.0)
    return result


def of_maps(defect: NDArray[np.float32], threshold: float, least_cells: float) -> Numbers:
    """Return each tile's highest defect probability in a connected part that is large enough, [N].

    Where there is none, the highest probability below the threshold that a single cell has.

    Args:
        defect: The defects' probabilities added up, [N,h,w].
        threshold: From which a cell belongs to a part.
        least_cells: Parts of fewer cells do not count.
    """
    result = np.zeros(len(defect))
    for index, one in enumerate(defect):
        count, numbers = regions((one >= threshold).astype(np.uint8))
        peaks = np.zeros(count + 1)
        np.maximum.at(peaks, numbers.reshape(-1), one.reshape(-1))
        large = np.bincount(numbers.reshape(-1), minlength=count + 1)[1:] >= least_cells
        kept = peaks[1:][large]
        result[index] = kept.max() if len(kept) else peaks[0]
    return result

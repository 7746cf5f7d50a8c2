"""How well a map says where: overlap by region against false positives, overlap by label, defects found."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import BugError

FPR_LIMIT = 0.3  # up to which AUPRO is integrated, as MVTec AD defines it


def aupro(maps: list[NDArray[np.float32]], masks: list[NDArray[np.uint8]], limit: float = FPR_LIMIT) -> float:
    """Return the normalised area under the per-region overlap (Bergmann et al., MVTec AD), exact.

    At every threshold: the mean over all connected regions of the share of their pixels at or above it, against the
    share of all pixels outside any region at or above it; integrated over the latter from 0 to ``limit``. Every region
    counts the same, however small. All distinct scores are thresholds; nothing is binned.

    Args:
        maps: One a picture, [h,w], higher = more of a defect.
        masks: One a picture, of the map's shape; 0 = no defect.
        limit: Largest share of false positives, in (0, 1].

    Returns:
        In [0, 1]; NaN where there is no region, or nothing outside of one.

    Raises:
        BugError: A map and its mask differ in shape.
    """
    if [one.shape for one in maps] != [one.shape for one in masks]:
        raise BugError("AUPRO", "maps and masks differ in shape or number", "Please report it.")
    found = [regions(mask) for mask in masks]
    count = sum(number for number, _ in found)
    outside = sum(int((numbers == 0).sum()) for _, numbers in found)
    if not count or not outside:
        return float("nan")
    scores = np.concatenate([one.reshape(-1) for one in maps]).astype(np.float32)
    gains = np.concatenate([_overlap_gains(number, numbers) for number, numbers in found]) / count
    order = np.argsort(-scores, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]  # of equal scores
    overlap = np.r_[0.0, np.cumsum(gains[order])[last]]
    false = np.r_[0.0, np.cumsum(gains[order] == 0)[last] / outside]
    return _area(false, overlap, limit) / limit


def regions(mask: NDArray[np.uint8]) -> tuple[int, NDArray[np.int32]]:
    """Return how many connected regions a mask has (diagonal neighbours belong together), and each pixel's number.

    Numbers run from 1; 0 is what belongs to none.
    """
    import cv2

    count, numbers = cv2.connectedComponents((np.asarray(mask) != 0).astype(np.uint8), connectivity=8)
    return count - 1, np.asarray(numbers, dtype=np.int32)


def _overlap_gains(count: int, numbers: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return what each pixel adds to the sum of overlaps once it is marked: one over its region's area, or 0."""
    areas = np.bincount(numbers.reshape(-1), minlength=count + 1).astype(np.float64)
    share = np.r_[0.0, 1.0 / areas[1:]]
    return np.asarray(share[numbers.reshape(-1)], dtype=np.float64)


def _area(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> float:
    """Return the area under (x, y), x rising, from 0 to ``limit``."""
    inside = x <= limit
    xs, ys = np.r_[x[inside], limit], np.r_[y[inside], np.interp(limit, x, y)]
    return float((np.diff(xs) * (ys[1:] + ys[:-1])).sum() / 2)

"""How well a map says where: overlap by region against false positives, overlap by label, defects found."""

from __future__ import annotations

from dataclasses import dataclass

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


def enlarged(probabilities: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Bring maps [K,h,w] to a picture's size, between cells by straight lines."""
    import cv2

    return np.stack([np.asarray(cv2.resize(one, (width, height)), dtype=np.float32) for one in probabilities])


def label_overlap(maps: NDArray[np.float32], masks: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Return each label's intersection over union over all pixels of all pictures, [K]; NaN for one that never occurs.

    Args:
        maps: Probabilities [N,K,h,w]; the highest is a pixel's label.
        masks: N masks [H,W] of label numbers below K.
    """
    labels = maps.shape[1]
    confusion = np.zeros((labels, labels), dtype=np.int64)
    for probabilities, mask in zip(maps, masks, strict=True):
        said = enlarged(probabilities, *mask.shape).argmax(axis=0)
        confusion += np.bincount(
            mask.reshape(-1).astype(np.int64) * labels + said.reshape(-1), minlength=labels**2
        ).reshape(labels, labels)
    return overlap_of(confusion)


def overlap_of(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return intersection over union by label from pixels counted by true (rows) and said label."""
    shared = np.diag(confusion).astype(np.float64)
    true, said = confusion.sum(axis=1), confusion.sum(axis=0)
    return np.asarray(np.where(true > 0, shared / np.maximum(true + said - shared, 1), np.nan))


TOUCHED = 0.1  # overlap of a marked defect with what was found at it, from which it counts as found


@dataclass(frozen=True)
class Defects:
    """Marked defects (connected regions, whatever their label) against what was found at them.

    Attributes:
        count: Marked defects.
        found: Of them, those that what touches them overlaps by `TOUCHED` at least (intersection over union).
        parts: Found parts.
        wrong: Of them, those that touch no marked defect.
        areas: True and found area of each found defect, [found,2] in pixels.
        lengths: True and found length of each found defect, [found,2] in pixels: the longer side of the smallest
            rectangle around it.
    """

    count: int
    found: int
    parts: int
    wrong: int
    areas: NDArray[np.float64]
    lengths: NDArray[np.float64]


def defects(found: list[NDArray[np.bool_]], masks: list[NDArray[np.uint8]]) -> Defects:
    """Compare found areas with masks of the same shapes, picture by picture."""
    count = parts = wrong = 0
    areas: list[tuple[float, float]] = []
    lengths: list[tuple[float, float]] = []
    for said, mask in zip(found, masks, strict=True):
        true_count, true = regions(mask)
        said_count, numbers = regions(said.astype(np.uint8))
        count, parts = count + true_count, parts + said_count
        wrong += said_count - len(np.setdiff1d(np.unique(numbers[true > 0]), [0]))
        for one in range(1, true_count + 1):
            here = true == one
            there = np.isin(numbers, np.setdiff1d(np.unique(numbers[here]), [0]))
            if (here & there).sum() >= TOUCHED * (here | there).sum():
                areas.append((float(here.sum()), float(there.sum())))
                lengths.append((extent(here), extent(there)))
    return Defects(count, len(areas), parts, wrong, np.array(areas).reshape(-1, 2), np.array(lengths).reshape(-1, 2))


def extent(region: NDArray[np.bool_]) -> float:
    """Return the longer side of the smallest (turned) rectangle around a region, in pixels; one pixel has 1."""
    import cv2

    rows, columns = np.nonzero(region)
    corners = np.concatenate(
        [np.stack([columns + right, rows + down], axis=1) for right in (0, 1) for down in (0, 1)]
    ).astype(np.float32)
    return float(max(cv2.minAreaRect(corners)[1]))

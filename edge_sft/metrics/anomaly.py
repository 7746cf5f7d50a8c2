"""How well scores tell defects from good parts, and what thresholds cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_sft.metrics.classification import precision_recall, roc
from edge_sft.metrics.intervals import clopper_pearson

LEAST_DEFECTS = 10  # fewer say too little about what escapes to choose by cost


def summary(scores: NDArray[np.float64], defect: NDArray[np.bool_], threshold: float) -> dict[str, float]:
    """Return AUROC, average precision, false rejects and escapes at a threshold with exact 95 % bounds.

    Args:
        scores: [P], higher = more unlike a good part.
        defect: Which pictures truly show one, [P].
        threshold: At or above it a part is rejected.
    """
    rejected = scores >= threshold
    goods, defects = int((~defect).sum()), int(defect.sum())
    false, escaped = int((rejected & ~defect).sum()), int((~rejected & defect).sum())
    told: dict[str, float] = {"pictures": float(len(scores)), "good": float(goods), "defects": float(defects)}
    curve, precision = roc(defect, scores), precision_recall(defect, scores)
    if curve is not None and precision is not None:
        told |= {"auroc": curve.area, "average_precision": precision.area}
    if goods:
        low, high = clopper_pearson(false, goods)
        told |= {"false_reject_rate": false / goods, "false_reject_low": low, "false_reject_high": high}
    if defects:
        low, high = clopper_pearson(escaped, defects)
        told |= {"escape_rate": escaped / defects, "escape_low": low, "escape_high": high}
    return told


def cheapest(
    scores: NDArray[np.float64],
    defect: NDArray[np.bool_],
    escape_cost: float,
    overkill_cost: float,
    prevalence: float | None,
) -> float | None:
    """Return the threshold of least expected cost; None where there are too few defects or good parts to say.

    Args:
        scores: [P], above 0.
        defect: Which pictures truly show one.
        escape_cost: Of a defect that passes.
        overkill_cost: Of a good part that is rejected.
        prevalence: Share of defects on the line; None = as in these pictures.
    """
    goods, defects = int((~defect).sum()), int(defect.sum())
    if defects < LEAST_DEFECTS or goods < LEAST_DEFECTS:
        return None
    share = defects / len(scores) if prevalence is None else prevalence
    levels = np.unique(scores)
    thresholds = np.r_[levels[0] * 0.99, (levels[1:] + levels[:-1]) / 2, levels[-1] * 1.01]
    # one more of each than was seen: a rate of 0 among a few is no proof of 0
    escaped = (np.searchsorted(np.sort(scores[defect]), thresholds) + 1) / (defects + 2)
    false = (goods - np.searchsorted(np.sort(scores[~defect]), thresholds) + 1) / (goods + 2)
    cost = share * escape_cost * escaped + (1 - share) * overkill_cost * false
    return float(thresholds[int(np.argmin(cost))])

"""One flat dict of numbers a split: what checkpoint.json and the bundle's manifest carry."""

from __future__ import annotations

import math

from edge_sft.checkpoint import Scores
from edge_sft.metrics.calibration import calibration_error
from edge_sft.metrics.classification import evaluate, precision_recall, roc
from edge_sft.metrics.plant import SplitName, defect_scores, is_defect, plant_rates
from edge_sft.policy import Policy
from edge_sft.task import Task


def summary(scores: Scores, task: Task, policy: Policy, *, split: SplitName) -> dict[str, float]:
    """Return the split's numbers by name; what is undefined (an empty split, no defects) is left out.

    Shares in [0, 1]. ``*_low`` and ``*_high`` are 95 % bounds; escape and overkill are at the policy's threshold.
    """
    if len(scores.labels) == 0:
        return {}
    result = evaluate(scores, task)
    numbers: dict[str, float | None] = {"pictures": result.pictures}
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        interval = getattr(result, name)
        numbers |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    numbers["calibration_error"] = calibration_error(scores.probabilities, scores.labels, scores.weights)
    rates = plant_rates(scores, task, policy.threshold, split=split)
    if rates is not None:
        defect, score = is_defect(scores, task), defect_scores(scores, task)
        receiver, precision = roc(defect, score, scores.weights), precision_recall(defect, score, scores.weights)
        numbers |= {
            "threshold": rates.threshold,
            "defects": rates.defects,
            "escaped": rates.escaped,
            "escape_rate": rates.escape_rate,
            "escape_rate_low": rates.escape_low,
            "escape_rate_high": rates.escape_high,
            "goods": rates.goods,
            "scrapped": rates.scrapped,
            "overkill_rate": rates.overkill_rate,
            "overkill_rate_low": rates.overkill_low,
            "overkill_rate_high": rates.overkill_high,
            "roc_auc": receiver.area if receiver else None,
            "average_precision": precision.area if precision else None,
        }
    return {name: float(value) for name, value in numbers.items() if value is not None and math.isfinite(value)}

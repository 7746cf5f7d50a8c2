"""The default policy of a detector or segmenter, chosen on validation: by cost, or by the false rejects asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import DataError
from edge_sft.metrics.cost import Costs, cheapest, cost_curve
from edge_sft.metrics.detection import Boxes, Objects, matched
from edge_sft.policy import DetectionPolicy, SegmentationPolicy
from edge_sft.recipe import PolicySection, Recipe
from edge_sft.task import Task
from edge_sft.training.dense.evidence import Numbers, Shown, of_boxes, of_maps

_UNKNOWN = 0.3  # threshold of a label that validation does not show
_LOWEST, _HIGHEST = 0.02, 0.98
_CELLS = (0, 2, 4, 8, 16)  # least areas of a part that are tried
_THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 10))
_FLOOR = 1e-3  # nothing found at all counts as this much evidence


def detection_policy(
    task: Task, recipe: Recipe, found: Sequence[Boxes], true: Sequence[Objects], shown: Shown
) -> DetectionPolicy:
    """Choose a threshold for each label, then raise or lower all together until pictures' verdicts cost least.

    Raises:
        DataError: Fewer good pictures than ``policy.false_reject_rate`` needs.
    """
    section = recipe.policy
    thresholds = label_thresholds(found, true, len(task.labels))
    defects = [task.labels.index(label) for label in task.defect_labels]
    evidence = shown.highest(of_boxes(found, thresholds, defects))
    factor = limit_of(evidence, shown, section) or 1.0
    return DetectionPolicy(
        labels=task.labels,
        ok_labels=task.ok_labels,
        thresholds=tuple(round(float(np.clip(one * factor, 1e-3, 1.0)), 6) for one in thresholds),
        min_area_mm2=section.min_area_mm2,
        min_length_mm=section.min_length_mm,
        deadline_ms=section.deadline_ms,
    )


def label_thresholds(found: Sequence[Boxes], true: Sequence[Objects], labels: int) -> list[float]:
    """Return for each label the threshold at which as many boxes are right, and objects found, as can be (F1)."""
    every = np.zeros(labels)
    scores: list[NDArray[np.float32]] = []
    right: list[NDArray[np.bool_]] = []
    of: list[NDArray[np.int64]] = []
    objects = np.zeros(labels, dtype=np.int64)
    for boxes, drawn in zip(found, true, strict=True):
        sorted_boxes = boxes.above(every)
        scores.append(sorted_boxes.scores)
        right.append(matched(sorted_boxes, drawn) >= 0)
        of.append(sorted_boxes.labels)
        objects += np.bincount(drawn.labels, minlength=labels)
    if not scores:
        return [_UNKNOWN] * labels
    score, hit, label = np.concatenate(scores), np.concatenate(right), np.concatenate(of)
    return [_best_f1(score[label == one], hit[label == one], int(objects[one])) for one in range(labels)]


def _best_f1(score: NDArray[np.float32], hit: NDArray[np.bool_], objects: int) -> float:
    if not objects or not hit.any():
        return _UNKNOWN
    order = np.argsort(-score, kind="stable")
    f1 = 2 * np.cumsum(hit[order]) / (np.arange(1, len(order) + 1) + objects)
    best = int(f1.argmax())
    below = float(score[order][best + 1]) if best + 1 < len(order) else 0.0
    return float(np.clip((float(score[order][best]) + below) / 2, _LOWEST, _HIGHEST))


def segmentation_policy(
    task: Task,
    recipe: Recipe,
    defect: NDArray[np.float32],
    marked: NDArray[np.bool_],
    shown: Shown,
    pixels_a_cell: float,
) -> SegmentationPolicy:
    """Choose from which probability a cell is a defect's (most overlap with what is marked), then which parts count.

    Args:
        task: The model's.
        recipe: Its costs, or the false rejects asked for.
        defect: The defects' probabilities added up, [N,h,w].
        marked: Where a defect is marked, [N,h,w].
        shown: What the pictures show.
        pixels_a_cell: How much of the frame a cell covers.

    Raises:
        DataError: Fewer good pictures than ``policy.false_reject_rate`` needs.
    """
    section = recipe.policy
    threshold, cells, peak = 0.5, 0, 0.0
    if marked.any():
        threshold = max(_THRESHOLDS, key=lambda one: _overlap(defect >= one, marked))
    limits = {one: limit_of(_evidence(defect, threshold, one, shown), shown, section) for one in _CELLS}
    tried = {one: limit for one, limit in limits.items() if limit is not None}
    if tried:
        cells = min(tried, key=lambda one: _cost(_evidence(defect, threshold, one, shown), tried[one], shown, section))
        peak = float(np.clip(tried[cells], 0.01, 1.0))
    return SegmentationPolicy(
        labels=task.labels,
        ok_labels=task.ok_labels,
        threshold=round(min(threshold, peak or 1.0), 6),
        min_area_px=round(cells * pixels_a_cell, 3),
        min_peak=round(peak, 6) if peak > threshold else 0.0,
        min_area_mm2=section.min_area_mm2,
        min_length_mm=section.min_length_mm,
        deadline_ms=section.deadline_ms,
    )


def _evidence(defect: NDArray[np.float32], threshold: float, cells: int, shown: Shown) -> Numbers:
    return shown.highest(of_maps(defect, threshold, cells))


def _overlap(said: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    return float((said & true).sum() / max(1, int((said | true).sum())))


def limit_of(evidence: Numbers, shown: Shown, section: PolicySection) -> float | None:
    """Return from which evidence a picture is to be rejected; None where validation cannot tell.

    Raises:
        DataError: Fewer good pictures than ``policy.false_reject_rate`` needs.
    """
    if section.false_reject_rate is not None:
        return conformal_limit(evidence[shown.good], section.false_reject_rate)
    if shown.good.all() or not shown.good.any():
        return None
    kept = np.maximum(evidence, _FLOOR)
    costs = _costs(shown, section)
    curve = cost_curve(kept / (1 + kept), ~shown.good, shown.weights, costs)
    one_defect = costs.prevalence * costs.escape / int((~shown.good).sum())
    one_good = (1 - costs.prevalence) * costs.overkill / int(shown.good.sum())
    limit = float(curve.thresholds[cheapest(curve, 0.1 * (min(one_defect, one_good) or max(one_defect, one_good)))])
    return limit / (1 - limit)


def conformal_limit(good: Numbers, rate: float) -> float:
    """Return the lowest limit that a further good picture reaches with at most this probability.

    Raises:
        DataError: n good pictures support a rate of 1 / (n + 1) at best.
    """
    rank = math.ceil((len(good) + 1) * (1 - rate))
    if rank > len(good):
        needed = math.ceil(1 / rate - 1)
        raise DataError(
            "policy.false_reject_rate",
            f"{rate:g} cannot be promised from {len(good)} good validation pictures",
            f"Bring {needed} at least, or ask for {1 / (len(good) + 1):.3g} or more.",
        )
    return float(np.nextafter(np.sort(good)[rank - 1], np.inf))


def _costs(shown: Shown, section: PolicySection) -> Costs:
    found = float(shown.weights[~shown.good].sum() / shown.weights.sum())
    prevalence = section.prevalence or float(np.clip(found, 1e-6, 1 - 1e-6))
    if section.escape_cost == section.overkill_cost == 0:
        return Costs(1.0, 1.0, prevalence)  # nothing costs anything: count both mistakes alike
    return Costs(section.escape_cost, section.overkill_cost, prevalence)


def _cost(evidence: Numbers, limit: float, shown: Shown, section: PolicySection) -> float:
    """Return what a limit costs on validation, as counted; with no defect to escape, how many goods it rejects."""
    rejected = evidence >= limit
    goods, defects = shown.weights * shown.good, shown.weights * ~shown.good
    overkill = float((goods * rejected).sum() / max(goods.sum(), 1e-9))
    escape = float((defects * ~rejected).sum() / max(defects.sum(), 1e-9))
    return float(_costs(shown, section).per_part(escape, overkill))

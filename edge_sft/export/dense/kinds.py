"""Gates by kind: does a variant find what the checkpoint found, as surely and in the same places?

Paired, on validation. What is counted as right is a picture's verdict; in detection also each object. Places must
agree as well: maps and boxes of a variant that differ more than `PLACES` say are another model's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge_sft.bundle.comparing import overlap
from edge_sft.bundle.manifest import GateResult
from edge_sft.errors import BugError
from edge_sft.export.dense.reference import DenseReference
from edge_sft.export.gating import FP32_MAX_DIFFERENCE
from edge_sft.export.running import Arrays
from edge_sft.metrics.classification import roc
from edge_sft.metrics.intervals import paired_flips
from edge_sft.policy import DetectionPolicy, PictureAnomalyPolicy, SegmentationPolicy
from edge_sft.profile import VariantName
from edge_sft.task import TaskKind

Bools = NDArray[np.bool_]
Judge = Callable[[VariantName, Arrays, DenseReference, str], GateResult]

# Share of marked cells, or of boxes, that a variant must have in common with the checkpoint (intersection over union).
# Two runs of one network on differently rounded pictures agree better than 0.9; another network agrees to 0.3 to 0.6.
PLACES = 0.7
_SAME_OBJECT = 0.5  # overlap from which two boxes are of one object


def anomalies(variant: VariantName, after: Arrays, reference: DenseReference, note: str = "") -> GateResult:
    """Judge by verdicts at the policy's threshold, by how pictures are ranked, and by where the map is high."""
    policy = reference.policy
    if not isinstance(policy, PictureAnomalyPolicy):
        raise BugError("gate", f"was given a policy for {policy.kind}", "Please report it.")
    usable = _finite(after)
    scores = [reference.pictures(reference.strength(answers)) for answers in (reference.answers, usable)]
    right = [(score >= policy.threshold) == ~reference.shown.good for score in scores]
    faults = _common(variant, after, reference)
    measured = _ranked(scores, reference, faults)
    if policy.map_threshold is not None:
        marked = [answers["anomaly_map"] >= policy.map_threshold for answers in (reference.answers, usable)]
        _places(marked[0], marked[1], faults, "cells above the map's threshold")
    return _result(variant, right[0], right[1], after, reference, faults, note, measured)


def detections(variant: VariantName, after: Arrays, reference: DenseReference, note: str = "") -> GateResult:
    """Judge by objects found and verdicts at the policy's thresholds, and by whether the boxes are the same ones."""
    policy = reference.policy
    if not isinstance(policy, DetectionPolicy):
        raise BugError("gate", f"was given a policy for {policy.kind}", "Please report it.")
    usable = _finite(after)
    told = [_told(answers, policy) for answers in (reference.answers, usable)]
    objects = [
        _objects_found(answers, kept, reference)
        for answers, kept in zip((reference.answers, usable), told, strict=True)
    ]
    bad = [label not in policy.ok_labels for label in policy.labels]
    verdicts = []
    for answers, kept in zip((reference.answers, usable), told, strict=True):
        alarm = (kept & np.array(bad)[np.clip(answers["labels"], 0, len(bad) - 1)]).any(axis=1)
        verdicts.append((reference.pictures(alarm.astype(np.float64)) > 0) == ~reference.shown.good)
    faults = _common(variant, after, reference)
    _same_boxes(told, usable, reference, faults)
    scores = [_f1(answers, kept, reference) for answers, kept in zip((reference.answers, usable), told, strict=True)]
    if 100 * (scores[0] - scores[1]) > max(reference.tolerance_points, _one_of(len(objects[0]))):
        faults.append(f"its F1 of boxes falls from {scores[0]:.4f} to {scores[1]:.4f}")
    right = [np.concatenate(pair) for pair in zip(objects, verdicts, strict=True)]
    return _result(variant, right[0], right[1], after, reference, faults, note, ("F1 of boxes", scores[0], scores[1]))


def segments(variant: VariantName, after: Arrays, reference: DenseReference, note: str = "") -> GateResult:
    """Judge by the overlap with the truth, by verdicts, and by whether the outlined places are the same ones."""
    policy = reference.policy
    if not isinstance(policy, SegmentationPolicy):
        raise BugError("gate", f"was given a policy for {policy.kind}", "Please report it.")
    usable = _finite(after)
    marked = [reference.defects(answers) >= policy.threshold for answers in (reference.answers, usable)]
    cell = _cell_area(reference)
    least = policy.min_area_px / cell
    alarms = [reference.pictures(mask.sum(axis=(1, 2)).astype(np.float64)) > least for mask in marked]
    right = [alarm == ~reference.shown.good for alarm in alarms]
    faults = _common(variant, after, reference)
    _places(marked[0], marked[1], faults, "cells called a defect")
    truth = _truth_cells(reference, marked[0].shape[1:])
    scores = [_iou(mask, truth) for mask in marked]
    if 100 * (scores[0] - scores[1]) > reference.tolerance_points:
        faults.append(f"its IoU with the truth falls from {scores[0]:.4f} to {scores[1]:.4f}")
    return _result(variant, right[0], right[1], after, reference, faults, note, ("IoU", scores[0], scores[1]))


JUDGES: dict[TaskKind, Judge] = {"anomaly": anomalies, "detection": detections, "segmentation": segments}


def _finite(after: Arrays) -> Arrays:
    return {name: np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0) for name, array in after.items()}


def _common(variant: VariantName, after: Arrays, reference: DenseReference) -> list[str]:
    if not all(np.isfinite(after[name]).all() for name in reference.answers):
        return ["outputs are not finite"]
    difference = reference.difference(after)
    if variant == "fp32" and difference > FP32_MAX_DIFFERENCE:
        return [f"outputs differ from the checkpoint's by up to {difference:.1e} of their scale"]
    return []


def _ranked(
    scores: list[NDArray[np.float64]], reference: DenseReference, faults: list[str]
) -> tuple[str, float, float] | None:
    curves = [roc(~reference.shown.good, score) for score in scores]
    if curves[0] is None or curves[1] is None:
        return None
    if 100 * (curves[0].area - curves[1].area) > reference.tolerance_points:
        faults.append(f"its AUROC falls from {curves[0].area:.4f} to {curves[1].area:.4f}")
    return "AUROC", curves[0].area, curves[1].area


def _places(before: Bools, after: Bools, faults: list[str], what: str) -> None:
    either = int((before | after).sum())
    shared = int((before & after).sum()) / either if either else 1.0
    if shared < PLACES:
        faults.append(f"only {shared:.2f} of the {what} are the checkpoint's too ({PLACES:.2f} is asked)")


def _told(answers: Arrays, policy: DetectionPolicy) -> Bools:
    limits = np.array(policy.thresholds)[np.clip(answers["labels"], 0, len(policy.thresholds) - 1)]
    return np.asarray(answers["scores"] >= limits)


def _matches(answers: Arrays, kept: Bools, reference: DenseReference, index: int) -> Bools:
    """Return which objects [n] of a tile overlap which told boxes [m] of their label, [n,m]."""
    truth = reference.shown.truth[index]
    boxes = answers["boxes"][index][kept[index]]
    same = truth.labels[:, None] == answers["labels"][index][kept[index]][None]
    return np.asarray(same & (overlap(truth.boxes, boxes) >= _SAME_OBJECT))


def _objects_found(answers: Arrays, kept: Bools, reference: DenseReference) -> Bools:
    found = [_matches(answers, kept, reference, index).any(axis=1) for index in range(len(reference.shown))]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.bool_)


def _f1(answers: Arrays, kept: Bools, reference: DenseReference) -> float:
    found, right, told = 0, 0, int(kept.sum())
    objects = sum(len(truth.labels) for truth in reference.shown.truth)
    for index in range(len(reference.shown)):
        matches = _matches(answers, kept, reference, index)
        found += int(matches.any(axis=1).sum())
        right += int(matches.any(axis=0).sum())
    precision, recall = right / told if told else 0.0, found / objects if objects else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _same_boxes(told: list[Bools], after: Arrays, reference: DenseReference, faults: list[str]) -> None:
    """Ask for the same boxes: those of one label that overlap by half, among all that either tells."""
    before = reference.answers
    shared, total = 0, int(told[0].sum()) + int(told[1].sum())
    for index in range(len(reference.shown)):
        one, other = told[0][index], told[1][index]
        same = before["labels"][index][one][:, None] == after["labels"][index][other][None]
        paired = same & (overlap(before["boxes"][index][one], after["boxes"][index][other]) >= _SAME_OBJECT)
        shared += int(paired.any(axis=1).sum()) + int(paired.any(axis=0).sum())
    if total and shared / total < PLACES:
        faults.append(f"only {shared / total:.2f} of the boxes are the checkpoint's too ({PLACES:.2f} is asked)")


def _cell_area(reference: DenseReference) -> float:
    """Return how many pixels of the tile one cell of the map stands for."""
    height, width = reference.shown.images.shape[1:3]
    rows, columns = reference.answers["probabilities"].shape[2:]
    return float((height / rows) * (width / columns))


def _truth_cells(reference: DenseReference, cells: tuple[int, ...]) -> Bools:
    """Return where a defect is marked, at the map's resolution: cells of which half is."""
    truths = []
    for tile in reference.shown.truth:
        if tile.mask is None:
            truths.append(np.zeros(cells, dtype=np.bool_))
            continue
        rows, columns = tile.mask.shape[0] // cells[0], tile.mask.shape[1] // cells[1]
        bad = tile.mask[: rows * cells[0], : columns * cells[1]] > 0
        truths.append(bad.reshape(cells[0], rows, cells[1], columns).mean(axis=(1, 3)) >= 0.5)
    return np.stack(truths)


def _iou(marked: Bools, truth: Bools) -> float:
    either = int((marked | truth).sum())
    return int((marked & truth).sum()) / either if either else 1.0


def _one_of(count: int) -> float:
    return 100.0 / max(1, count)


def _result(
    variant: VariantName,
    was: Bools,
    now: Bools,
    after: Arrays,
    reference: DenseReference,
    faults: list[str],
    note: str,
    measured: tuple[str, float, float] | None,
) -> GateResult:
    flips = paired_flips(np.ones(len(was)), was, now)
    allowed = max(reference.tolerance_points, _one_of(len(was)))
    if flips.net_loss_points > allowed:
        faults.append(f"loses {flips.net_loss_points:.2f} points")
    difference = reference.difference(after)
    return GateResult(
        variant=variant,
        pictures=len(was),
        right_to_wrong=flips.right_to_wrong,
        wrong_to_right=flips.wrong_to_right,
        net_loss_points=flips.net_loss_points,
        right_to_wrong_low=flips.right_to_wrong_low,
        right_to_wrong_high=flips.right_to_wrong_high,
        max_score_difference=difference if np.isfinite(difference) else 1.0,
        tolerance_points=allowed,
        passed=not faults,
        measure=measured[0] if measured else "",
        before=measured[1] if measured else None,
        after=measured[2] if measured else None,
        note="; ".join([*faults, *([note] if note else [])]),
    )

"""What was found in a picture and a rule in, a Decision out: pure functions, for models that say where.

What a Decision's score is:

| kind | score | label, confidence |
|---|---|---|
| anomaly | the picture's score against the threshold, never clamped above | none |
| detection | probability of the defect that is nearest to, or furthest above, its label's threshold | that defect's |
| segmentation | highest probability of a defect anywhere, also of one too small to count | of the surest part |
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edge_sft.policy.rules import DetectionPolicy, PictureAnomalyPolicy, PicturePolicy, SegmentationPolicy
from edge_sft.prediction import Decision, Mark

NOT_FINITE = "model output is not finite"


def decide_picture(score: float, marks: Sequence[Mark], policy: PicturePolicy) -> Decision:
    """Turn what was found in one picture into a decision.

    Args:
        score: The picture's score: of an anomaly in the graph's unit, else the highest probability of a defect.
            Where any output of the model is not finite, NaN.
        marks: What was found, in any order, also what the policy does not tell.
        policy: The active policy.

    Returns:
        A Decision with the marks that are told, highest score first; ``no_decision`` where the score is not finite.
    """
    if not math.isfinite(score):
        return Decision("no_decision", reason=NOT_FINITE)
    told = tuple(sorted((mark for mark in marks if is_told(mark, policy)), key=lambda mark: -mark.score))
    if isinstance(policy, PictureAnomalyPolicy):
        return _decide_anomaly(score, told, policy)
    if isinstance(policy, DetectionPolicy):
        return _decide_detection(score, marks, told, policy)
    return _decide_segmentation(score, told, policy)


def is_told(mark: Mark, policy: PicturePolicy) -> bool:
    """Tell whether a policy lets a mark count: sure enough, and large enough where its size is known."""
    if not _large_enough(mark, policy):
        return False
    if isinstance(policy, DetectionPolicy):
        return _ratio(mark, policy) >= (policy.uncertain_low or 1.0)
    if isinstance(policy, SegmentationPolicy):
        return mark.score >= policy.min_peak
    return True


def _large_enough(mark: Mark, policy: PicturePolicy) -> bool:
    """Compare a mark with the policy's smallest sizes; a size that nobody measured is not too small."""
    least_px = policy.min_area_px if isinstance(policy, SegmentationPolicy) else None
    limits = (
        (mark.area_px, least_px),
        (mark.area_mm2, policy.min_area_mm2),
        (mark.length_mm, policy.min_length_mm),
    )
    return not any(size is not None and least is not None and size < least for size, least in limits)


def _decide_anomaly(score: float, told: tuple[Mark, ...], policy: PictureAnomalyPolicy) -> Decision:
    ratio = max(score, 0.0) / policy.threshold
    if score >= policy.threshold:
        return Decision("nok", score=ratio, marks=told)
    if policy.uncertain_low is not None and score >= policy.uncertain_low:
        return Decision("uncertain", score=ratio, reason="score inside the uncertain band", marks=told)
    return Decision("ok", score=ratio, marks=told)


def _decide_detection(score: float, marks: Sequence[Mark], told: tuple[Mark, ...], policy: DetectionPolicy) -> Decision:
    defects = [mark for mark in marks if mark.label not in policy.ok_labels and _large_enough(mark, policy)]
    if not defects:
        return Decision("ok", score=0.0 if marks else score, marks=told)
    worst = max(defects, key=lambda mark: _ratio(mark, policy))
    ratio = _ratio(worst, policy)
    if ratio >= 1:
        return Decision("nok", worst.label, worst.score, worst.score, marks=told)
    if policy.uncertain_low is not None and ratio >= policy.uncertain_low:
        reason = "score inside the uncertain band"
        return Decision("uncertain", worst.label, worst.score, worst.score, reason, marks=told)
    return Decision("ok", score=worst.score, marks=told)


def _decide_segmentation(score: float, told: tuple[Mark, ...], policy: SegmentationPolicy) -> Decision:
    defects = [mark for mark in told if mark.label not in policy.ok_labels]
    if not defects:
        return Decision("ok", score=score, marks=told)
    return Decision("nok", defects[0].label, score, defects[0].score, marks=told)


def _ratio(mark: Mark, policy: DetectionPolicy) -> float:
    """Return a box's score in shares of its label's threshold; 0 for a label that the policy does not know."""
    if mark.label not in policy.labels:
        return 0.0
    return mark.score / policy.thresholds[policy.labels.index(mark.label)]

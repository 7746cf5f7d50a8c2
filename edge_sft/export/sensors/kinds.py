"""Gates by kind: is a variant as good as the checkpoint it came from? Paired, on validation windows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_sft.bundle.manifest import GateResult
from edge_sft.errors import BugError
from edge_sft.export import gating
from edge_sft.export.gating import FP32_MAX_DIFFERENCE, Answers
from edge_sft.export.running import Arrays
from edge_sft.export.sensors.reference import Judge, SensorReference
from edge_sft.metrics.classification import roc
from edge_sft.metrics.intervals import paired_flips
from edge_sft.policy import Policy, RegressionPolicy
from edge_sft.profile import VariantName
from edge_sft.task import TaskKind

# A difference of the error below this share of the estimates' scale is nobody's concern (an eighth of a cycle of
# 125); only per cent of a very small error would be too strict.
_NOT_WORTH = 1e-3
_ALARM_QUANTILE = 0.99  # of the healthy windows' scores: where a commissioned machine's threshold lies
_UNLABELLED_QUANTILE = 0.95  # nobody knows which windows are healthy: verdicts where scores lie close together


def faults(variant: VariantName, after: Arrays, reference: SensorReference, note: str = "") -> GateResult:
    """Judge a classification on the windows whose label is known, by the pictures' rule."""
    if not isinstance(reference.policy, Policy):
        raise BugError("gate", f"was given a policy for {reference.policy.kind}", "Please report it.")
    known = reference.shown.label >= 0
    answers = Answers(
        reference.task,
        reference.policy,
        reference.shown.label[known],
        reference.answers["probabilities"][known],
        reference.tolerance_points,
    )
    return gating.judge(variant, after["probabilities"][known], answers, note)


def remaining_life(variant: VariantName, after: Arrays, reference: SensorReference, note: str = "") -> GateResult:
    """Judge remaining life: the error may grow by the tolerance, in per cent, and the interval must go on to cover.

    A window is right when its interval holds what truly remained (not more than the cap).
    """
    truth = np.minimum(reference.shown.rul, reference.cap)
    known = np.isfinite(truth)
    was, now = _rmse(reference.answers["value"], truth), _rmse(after["value"], truth)
    scale = float(np.abs(truth[known]).max(initial=0.0))
    faults = _common(variant, after, reference)
    if not now - was <= max(reference.tolerance_points / 100 * was, _NOT_WORTH * scale):
        faults.append(f"its error grows from {was:.3g} to {now:.3g} {reference.task.unit}")
    covered, covers = (_covered(outputs["quantiles"], truth)[known] for outputs in (reference.answers, after))
    verdicts = _rul_verdicts(after, truth, reference)
    measure = f"RMSE in {reference.task.unit}" if reference.task.unit else "RMSE"
    return _result(variant, covered, covers, after, reference, faults, note, verdicts, (measure, was, now))


def anomalies(variant: VariantName, after: Arrays, reference: SensorReference, note: str = "") -> GateResult:
    """Judge an anomaly score by how it ranks windows: its threshold is made on the machine, by the variant itself.

    Checkpoint and variant each get a threshold by the same rule. A window is right when the verdict fits its label;
    where labels are unknown, when it is the checkpoint's. With labels the area under the ROC curve counts too.
    """
    label = reference.shown.label
    before, now = reference.answers["score"], np.nan_to_num(after["score"], nan=0.0, posinf=0.0, neginf=0.0)
    faults = _common(variant, after, reference)
    was, then = (score >= _threshold(score, label) for score in (before, now))
    labelled = label >= 0
    right = (was == (label > 0), then == (label > 0)) if labelled.any() else (np.ones_like(was), was == then)
    chosen = labelled if labelled.any() else np.ones_like(was)
    curves = roc(label[labelled] > 0, before[labelled]), roc(label[labelled] > 0, now[labelled])
    measured = None
    if curves[0] is not None and curves[1] is not None:
        measured = ("AUROC", curves[0].area, curves[1].area)
        if 100 * (curves[0].area - curves[1].area) > reference.tolerance_points:
            faults.append(f"its AUROC falls from {curves[0].area:.4f} to {curves[1].area:.4f}")
    return _result(variant, right[0][chosen], right[1][chosen], after, reference, faults, note, (0, 0), measured)


JUDGES: dict[TaskKind, Judge] = {"classification": faults, "regression": remaining_life, "anomaly": anomalies}


def _result(
    variant: VariantName,
    was: NDArray[np.bool_],
    now: NDArray[np.bool_],
    after: Arrays,
    reference: SensorReference,
    faults: list[str],
    note: str,
    verdicts: tuple[int, int],
    measured: tuple[str, float, float] | None,
) -> GateResult:
    flips = paired_flips(np.ones(len(was)), was, now)
    allowed = max(reference.tolerance_points, 100.0 / max(1, len(was)))
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
        verdicts_right_to_wrong=verdicts[0],
        verdicts_wrong_to_right=verdicts[1],
        max_score_difference=difference if np.isfinite(difference) else 1.0,
        tolerance_points=allowed,
        passed=not faults,
        measure=measured[0] if measured else "",
        before=_number(measured[1]) if measured else None,
        after=_number(measured[2]) if measured else None,
        note="; ".join([*faults, *([note] if note else [])]),
    )


def _common(variant: VariantName, after: Arrays, reference: SensorReference) -> list[str]:
    if not all(np.isfinite(array).all() for array in after.values()):
        return ["outputs are not finite"]
    difference = reference.difference(after)
    if variant == "fp32" and difference > FP32_MAX_DIFFERENCE:
        return [f"outputs differ from the checkpoint's by up to {difference:.1e} of their scale"]
    return []


def _rmse(value: NDArray[np.float32], truth: NDArray[np.float64]) -> float:
    known = np.isfinite(truth)
    return float(np.sqrt(np.mean((value[known] - truth[known]) ** 2)))


def _covered(quantiles: NDArray[np.float32], truth: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray((quantiles[:, 0] <= truth) & (truth <= quantiles[:, -1]))


def _rul_verdicts(after: Arrays, truth: NDArray[np.float64], reference: SensorReference) -> tuple[int, int]:
    """Count verdicts (act now or not, by the default policy) that turned wrong and that turned right."""
    rule = reference.policy
    if not isinstance(rule, RegressionPolicy):
        raise BugError("gate", f"was given a policy for {rule.kind}", "Please report it.")
    known = np.isfinite(truth)
    due = truth <= rule.act_below
    judged = [o["quantiles"][:, 0] if rule.judge == "low" else o["value"] for o in (reference.answers, after)]
    was, now = ((values <= rule.act_below) == due for values in judged)
    return int((was & ~now & known).sum()), int((~was & now & known).sum())


def _threshold(score: NDArray[np.float32], label: NDArray[np.int64]) -> float:
    healthy = score[label == 0]
    if healthy.size:
        return float(np.quantile(healthy, _ALARM_QUANTILE))
    return float(np.quantile(score, _UNLABELLED_QUANTILE))


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None

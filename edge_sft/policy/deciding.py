"""Outputs and a rule in, a Decision out: pure functions."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import BugError
from edge_sft.policy.rules import AnomalyPolicy, AnyPolicy, Policy, RegressionPolicy
from edge_sft.prediction import Decision


def decide(outputs: dict[str, NDArray[Any]], policy: AnyPolicy) -> Decision:
    """Turn one sample's outputs into a decision.

    Args:
        outputs: The graph's outputs with the batch axis removed: ``probabilities`` float [K]; ``score`` float [] and
            ``contributions`` [C]; or ``value`` [] and ``quantiles`` [Q].
        policy: The active policy; its labels are in the order of the outputs.

    Returns:
        A Decision; ``no_decision`` when the outputs hold NaN, infinities or the wrong number of values, or the
        machine was not commissioned.
    """
    if isinstance(policy, AnomalyPolicy):
        return _decide_anomaly(outputs, policy)
    if isinstance(policy, RegressionPolicy):
        return _decide_regression(outputs, policy)
    if not isinstance(policy, Policy):
        raise BugError(f"a policy for {policy.kind}", "was asked without where the picture lies", "Please report it.")
    return _decide_classification(outputs, policy)


def _decide_anomaly(outputs: dict[str, NDArray[Any]], policy: AnomalyPolicy) -> Decision:
    score = float(np.asarray(outputs["score"]).reshape(()))
    if not np.isfinite(score):
        return Decision("no_decision", reason="model output is not finite")
    if policy.threshold is None:
        return Decision("no_decision", reason="not commissioned: this machine has no threshold yet")
    ratio = max(score, 0.0) / policy.threshold
    return Decision("nok" if ratio >= 1 else "ok", score=ratio)


def _decide_regression(outputs: dict[str, NDArray[Any]], policy: RegressionPolicy) -> Decision:
    value = float(np.asarray(outputs["value"]).reshape(()))
    quantiles = np.asarray(outputs["quantiles"], dtype=np.float64).reshape(-1)
    if not (np.isfinite(value) and np.isfinite(quantiles).all()):
        return Decision("no_decision", reason="model output is not finite")
    low, high = (float(quantiles[0]), float(quantiles[-1])) if quantiles.size else (value, value)
    judged = low if policy.judge == "low" else value
    if judged <= policy.act_below:
        return Decision("nok", value=value, low=low, high=high)
    if policy.warn_below is not None and judged <= policy.warn_below:
        reason = f"at or below warn_below ({policy.warn_below:g})"
        return Decision("uncertain", reason=reason, value=value, low=low, high=high)
    return Decision("ok", value=value, low=low, high=high)


def _decide_classification(outputs: dict[str, NDArray[Any]], policy: Policy) -> Decision:
    probabilities = np.asarray(outputs.get("probabilities", ()), dtype=np.float64).reshape(-1)
    if probabilities.size != len(policy.labels):
        return Decision("no_decision", reason=f"{probabilities.size} outputs for {len(policy.labels)} labels")
    if not np.isfinite(probabilities).all():
        return Decision("no_decision", reason="model output is not finite")
    best = int(probabilities.argmax())
    label = policy.labels[best]
    confidence = float(np.clip(probabilities[best], 0.0, 1.0))
    score = defect_score(probabilities, policy)
    if policy.uncertain_low is not None and policy.uncertain_high is not None:
        if policy.uncertain_low <= score < policy.uncertain_high:
            return Decision("uncertain", label, score, confidence, "score inside the uncertain band")
    if confidence < policy.min_confidence:
        return Decision("uncertain", label, score, confidence, "confidence below min_confidence")
    sorting = len(policy.ok_labels) == len(policy.labels)
    verdict: Literal["ok", "nok"] = "nok" if not sorting and score >= policy.threshold else "ok"
    return Decision(verdict, label, score, confidence)


def defect_score(probabilities: NDArray[Any], policy: Policy) -> float:
    """Return the evidence for a defect in [0, 1]: one minus the good labels' probabilities."""
    good = [index for index, label in enumerate(policy.labels) if label in policy.ok_labels]
    return float(np.clip(1.0 - float(np.sum(np.asarray(probabilities, dtype=np.float64)[good])), 0.0, 1.0))

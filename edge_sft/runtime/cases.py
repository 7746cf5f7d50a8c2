"""Cases in words and facts, and which rule makes them."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from edge_sft.alarms import CaseEvent
from edge_sft.policy import AlarmRule, AnomalyPolicy, AnyPolicy, Policy, RegressionPolicy
from edge_sft.prediction import Prediction, rfc3339

_CLOCK, _CLOCK_END = 1e8, 1e11  # seconds since 1970, from 1973 to 5138; else the column counts something else


def rule_of(policy: AnyPolicy) -> AlarmRule:
    """Return the policy's rule; a fault classification has none of its own: one ``nok`` opens, one ``ok`` closes."""
    return policy.alarm if isinstance(policy, AnomalyPolicy | RegressionPolicy) else AlarmRule()


def threshold_of(policy: AnyPolicy) -> float:
    """Return the score at which a decision is ``nok``; an anomaly's is relative to the machine's own threshold."""
    return policy.threshold if isinstance(policy, Policy) else 1.0


def describe_case(event: CaseEvent, prediction: Prediction) -> tuple[str, str, dict[str, Any]]:
    """Return kind, sentence and facts of what happened to a case.

    Args:
        event: What.
        prediction: The decision that did it.
    """
    asset = prediction.asset or ""
    facts = {
        "asset": asset,
        "case": event.number,
        "at": event.at_s,
        "opened": event.opened_s,
        "since": event.since_s,
        "worst": event.worst,
        "score": prediction.score,
        "value": prediction.value,
        "label": prediction.label,
        "channels": prediction.channels,
        "decision": prediction.name,
    }
    facts = {name: value for name, value in facts.items() if value is not None}
    if event.kind == "case_closed":
        return event.kind, f"{asset}: case {event.number} is closed, all is well since {_when(event.since_s)}", facts
    why = f", mostly {next(iter(prediction.channels))}" if prediction.channels else ""
    what = f" ({prediction.label})" if prediction.label else ""
    if prediction.value is not None:
        what = f" ({prediction.value:.4g} left)"
    return event.kind, f"{asset}: case {event.number} is open{what}{why}", facts


def _when(time: float) -> str:
    """Write a row's time: as a date where the time column is a clock, else its number."""
    if not _CLOCK <= time < _CLOCK_END:
        return f"{time:.10g}"
    return rfc3339(datetime.fromtimestamp(time, timezone.utc))

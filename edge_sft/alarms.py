"""Alarms: decisions about one asset become at most one open case, with hysteresis. Pure; no clock, no I/O.

``now_s`` is the decision's own time (the end of its window, in the time column's unit), so a replay at any speed and
a restart give the same cases. Silence is not seen here: an asset that says nothing is ``offline``, which is a matter
of the device's clock (`edge_sft.runtime.assets`); `interrupted` is what it does to a case.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from edge_sft.policy import AlarmRule
from edge_sft.prediction import Prediction

EventKind = Literal["case_opened", "case_closed"]


@dataclass(frozen=True)
class Case:
    """What is remembered of an asset between two decisions; the first is ``Case()``.

    Attributes:
        number: How many cases the asset has had, the open one included.
        opened_s: Since when one is open; None = none is.
        bad_since_s: Since when every decision was ``nok``; None = the last one was not.
        good_since_s: Since when every decision was clearly ``ok``.
        worst: Highest score of the open case, where decisions have one.
    """

    number: int = 0
    opened_s: float | None = None
    bad_since_s: float | None = None
    good_since_s: float | None = None
    worst: float | None = None

    @property
    def open(self) -> bool:
        """Whether somebody should look at the asset."""
        return self.opened_s is not None


@dataclass(frozen=True)
class CaseEvent:
    """A case opened or closed.

    Attributes:
        kind: What happened.
        number: Which of the asset's cases.
        at_s: When, in the decisions' time.
        opened_s: When it opened.
        since_s: Since when the decisions agree that led to it.
        worst: Highest score so far.
    """

    kind: EventKind
    number: int
    at_s: float
    opened_s: float
    since_s: float
    worst: float | None


def step(
    case: Case, prediction: Prediction, rule: AlarmRule, now_s: float, *, threshold: float = 1.0
) -> tuple[Case, tuple[CaseEvent, ...]]:
    """Take one decision into account.

    ``nok`` without a break for ``on_after_s`` opens a case, once; ``ok`` for ``off_after_s`` closes it, where a score
    must lie below ``clear_ratio`` times the threshold. ``uncertain`` breaks both; ``no_decision`` is never healthy:
    it breaks the way to closing and leaves the way to opening as it is.

    Args:
        case: What was before.
        prediction: The decision.
        rule: The policy's.
        now_s: The decision's time. Earlier than before (a clock that jumped back) begins the waiting anew.
        threshold: Score at which a decision becomes ``nok``: 1 for anomalies, the policy's for classification.

    Returns:
        The case afterwards and what happened, in order.
    """
    bad = prediction.verdict == "nok"
    good = prediction.verdict == "ok" and _clearly(prediction, rule, threshold)
    case = replace(
        case,
        bad_since_s=_since(case.bad_since_s, now_s) if bad else _kept(case.bad_since_s, prediction),
        good_since_s=_since(case.good_since_s, now_s) if good else None,
        worst=_worst(case, prediction),
    )
    if case.opened_s is None:
        return _perhaps_open(case, rule, now_s) if bad else (case, ())
    return _perhaps_close(case, rule, now_s) if good else (case, ())


def interrupted(case: Case) -> Case:
    """Return the case after a silence: what was open stays open, no waiting goes on."""
    return replace(case, bad_since_s=None, good_since_s=None)


def _perhaps_open(case: Case, rule: AlarmRule, now_s: float) -> tuple[Case, tuple[CaseEvent, ...]]:
    since_s = now_s if case.bad_since_s is None else case.bad_since_s
    if now_s - since_s < rule.on_after_s:
        return case, ()
    opened = replace(case, number=case.number + 1, opened_s=now_s)
    return opened, (CaseEvent("case_opened", opened.number, now_s, now_s, since_s, case.worst),)


def _perhaps_close(case: Case, rule: AlarmRule, now_s: float) -> tuple[Case, tuple[CaseEvent, ...]]:
    since_s = now_s if case.good_since_s is None else case.good_since_s
    if now_s - since_s < rule.off_after_s or case.opened_s is None:
        return case, ()
    event = CaseEvent("case_closed", case.number, now_s, case.opened_s, since_s, case.worst)
    return Case(number=case.number, good_since_s=case.good_since_s), (event,)


def _clearly(prediction: Prediction, rule: AlarmRule, threshold: float) -> bool:
    return prediction.score is None or prediction.score < rule.clear_ratio * threshold


def _since(before_s: float | None, now_s: float) -> float:
    return now_s if before_s is None or before_s > now_s else before_s


def _kept(before_s: float | None, prediction: Prediction) -> float | None:
    return before_s if prediction.verdict == "no_decision" else None


def _worst(case: Case, prediction: Prediction) -> float | None:
    """Follow the highest score of the open case, or of the stretch of ``nok`` that may become one."""
    if prediction.score is None:
        return case.worst
    if case.opened_s is None and prediction.verdict != "nok":
        return None
    return prediction.score if case.worst is None else max(case.worst, prediction.score)

"""One open case an asset, with hysteresis, whatever decisions come: cases from life, and random ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_sft.alarms import Case, CaseEvent, interrupted, step
from edge_sft.policy import AlarmRule
from edge_sft.prediction import Prediction


def decision(verdict: Any, score: float | None = None) -> Prediction:
    when = "2026-01-01T00:00:00.000Z"
    return Prediction(
        stream="main", asset="pump", captured_at=when, decided_at=when, latency_ms=0, verdict=verdict, score=score
    )


def follow(
    rule: AlarmRule, *said: tuple[float, Any, float | None], case: Case | None = None
) -> tuple[Case, list[CaseEvent]]:
    now = case or Case()
    events: list[CaseEvent] = []
    for at, verdict, score in said:
        now, new = step(now, decision(verdict, score), rule, at)
        events += new
    return now, events


def test_a_case_opens_after_its_time_and_only_once() -> None:
    rule = AlarmRule(on_after_s=10)
    case, events = follow(rule, (0, "nok", 1.5), (9, "nok", 3.0), (10, "nok", 2.0), (11, "nok", 9.0), (50, "nok", 2.0))
    assert [(e.kind, e.number, e.at_s, e.since_s, e.worst) for e in events] == [("case_opened", 1, 10, 0, 3.0)]
    assert case.open
    assert case.worst == 9.0


@pytest.mark.parametrize("breaker", ["ok", "uncertain"])
def test_what_is_not_bad_begins_the_waiting_anew(breaker: str) -> None:
    _, events = follow(AlarmRule(on_after_s=10), (0, "nok", 2), (9, breaker, 0.1), (10, "nok", 2), (19, "nok", 2))
    assert events == []


def test_no_decision_is_no_way_out_of_an_alarm_and_none_out_of_a_case() -> None:
    rule = AlarmRule(on_after_s=10, off_after_s=10)
    case, events = follow(rule, (0, "nok", 2), (5, "no_decision", None), (10, "nok", 2))
    assert [e.kind for e in events] == ["case_opened"]
    case, events = follow(rule, (20, "ok", 0.1), (29, "no_decision", None), (31, "ok", 0.1), (40, "ok", 0.1), case=case)
    assert events == []
    assert case.open
    case, events = follow(rule, (41, "ok", 0.1), case=case)
    assert [(e.kind, e.since_s) for e in events] == [("case_closed", 31)]
    assert not case.open


def test_between_the_thresholds_a_case_stays_open() -> None:
    rule = AlarmRule(clear_ratio=0.8)
    case, events = follow(rule, (0, "nok", 1.0), (1, "ok", 0.9), (2, "ok", 0.81), (3, "nok", 1.2), (4, "ok", 0.79))
    assert [(e.kind, e.at_s) for e in events] == [("case_opened", 0), ("case_closed", 4)]
    assert case.number == 1


def test_a_classification_clears_below_its_own_threshold() -> None:
    case, _ = step(Case(), decision("nok", 0.4), AlarmRule(clear_ratio=0.5), 0, threshold=0.3)
    case, events = step(case, decision("ok", 0.2), AlarmRule(clear_ratio=0.5), 1, threshold=0.3)
    assert events == ()
    _, events = step(case, decision("ok", 0.1), AlarmRule(clear_ratio=0.5), 2, threshold=0.3)
    assert [e.kind for e in events] == ["case_closed"]


def test_a_clock_that_jumps_back_begins_the_waiting_anew_and_closes_nothing() -> None:
    rule = AlarmRule(on_after_s=10, off_after_s=10)
    case, events = follow(rule, (86_400, "nok", 2), (0, "nok", 2), (9, "nok", 2))
    assert events == []
    case, events = follow(rule, (10, "nok", 2), (86_000, "ok", 0.1), (100, "ok", 0.1), (109, "ok", 0.1), case=case)
    assert [e.kind for e in events] == ["case_opened"]
    assert case.open


def test_silence_stops_the_waiting_and_keeps_what_is_open() -> None:
    rule = AlarmRule(on_after_s=10)
    case, _ = follow(rule, (0, "nok", 2))
    _, events = follow(rule, (12, "nok", 2), case=interrupted(case))
    assert events == []
    case, _ = follow(rule, (0, "nok", 2), (10, "nok", 2))
    assert interrupted(case).open


def test_cases_open_and_close_in_turn_whatever_comes() -> None:
    rng = np.random.default_rng(0)
    for trial in range(200):
        rule = AlarmRule(
            on_after_s=float(rng.uniform(0, 5)),
            off_after_s=float(rng.uniform(0, 5)),
            clear_ratio=float(rng.uniform(0.1, 1)),
        )
        case, at, kinds = Case(), 0.0, []
        for _ in range(200):
            at += float(rng.exponential(1) if rng.random() > 0.02 else rng.normal(0, 50))
            verdict = str(rng.choice(["ok", "nok", "uncertain", "no_decision"]))
            score = {"ok": rng.uniform(0, 1), "nok": rng.uniform(1, 3)}.get(verdict)
            case, events = step(case, decision(verdict, score), rule, at)
            kinds += [event.kind for event in events]
            assert len(events) <= 1
            assert not (verdict in ("uncertain", "no_decision") and events)
        assert kinds == (["case_opened", "case_closed"] * 200)[: len(kinds)], trial
        assert case.open == (len(kinds) % 2 == 1)
        assert case.number == (len(kinds) + 1) // 2

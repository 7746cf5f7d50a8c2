"""A false-alarm budget: cases are counted as the device counts them, and what a short run proves is said."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from edge_sft.policy import AlarmRule
from edge_sft.slots.budget import cases, lowest, most_a_day, watched_days
from edge_sft.training.sensors.commissioned import follow

DAY = 86_400.0


def scores(count: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    slow = np.convolve(rng.standard_normal(count + 20), np.ones(21) / 4, mode="valid")
    return np.exp(slow), np.arange(count) * 60.0


@pytest.mark.parametrize("rule", [AlarmRule(), AlarmRule(on_after_s=300, off_after_s=600), AlarmRule(clear_ratio=1.0)])
@pytest.mark.parametrize("threshold", [0.5, 1.5, 3.0, 100.0])
def test_cases_are_those_of_the_alarm_logic(rule: AlarmRule, threshold: float) -> None:
    score, end = scores()
    _, opened = follow(score, end, threshold, rule, np.ones(len(score), dtype=np.bool_))
    assert cases(score, end, rule, threshold) == opened


def test_more_budget_a_lower_threshold() -> None:
    score, end = scores()
    found = [lowest(score, end, AlarmRule(), budget) for budget in (0.0, 1.0, 5.0, 20.0)]
    assert found[0].score > score.max()
    assert found[0].cases == 0
    assert all(one.cases <= budget * one.days for one, budget in zip(found, (0.0, 1.0, 5.0, 20.0), strict=True))
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert len({one.score for one in found}) == 4


def test_a_minimum_on_time_is_worth_a_lower_threshold() -> None:
    score, end = scores()
    patient = lowest(score, end, AlarmRule(on_after_s=600), 1.0)
    assert patient.score < lowest(score, end, AlarmRule(), 1.0).score


def test_a_short_run_proves_little_and_says_so() -> None:
    score, end = scores(60)
    level = lowest(score, end, AlarmRule(), 1.0)
    assert level.cases == 0
    assert "59 minutes" in level.sentence()
    assert "at most 73 a day" in level.sentence()
    assert most_a_day(0, 1.0) == pytest.approx(2.996, abs=1e-2)
    assert most_a_day(3, 1.0) == pytest.approx(7.754, abs=1e-2)
    assert most_a_day(0, 0.0) == inf


def test_silence_is_not_watching() -> None:
    end = np.concatenate([np.arange(100) * 60.0, 30 * DAY + np.arange(100) * 60.0])
    assert watched_days(end) < 0.2
    assert watched_days(np.array([5.0])) == 0.0

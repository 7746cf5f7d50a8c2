"""A false-alarm budget: the lowest threshold at which a machine's own healthy run would have called nobody too often.

Pure, and by the alarm logic of the device: what counts is cases, not windows over the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_sft.alarms import Case, step
from edge_sft.policy import AlarmRule
from edge_sft.prediction import Prediction

_DAY_S = 86_400.0
_CONFIDENCE = 0.95
_LEVELS = 1000  # scores that are tried as thresholds
_SILENCE = 10.0  # a step longer than so many usual ones is no time in which the machine was watched


@dataclass(frozen=True)
class Level:
    """A threshold and what it would have done in the healthy run.

    Attributes:
        score: Scores at and above it are ``nok``.
        cases: That would have opened.
        days: That the run was.
    """

    score: float
    cases: int
    days: float

    def sentence(self) -> str:
        """Say what the run proves about it, and what it does not."""
        said = f"the healthy run of {_long(self.days)} would have opened {self.cases} cases"
        most = most_a_day(self.cases, self.days)
        number = f"{most:.0f}" if most >= 10 else f"{most:.2g}"
        return f"{said}: that proves only that there are at most {number} a day (95 %)"


def lowest(score: NDArray[np.float64], end: NDArray[np.float64], rule: AlarmRule, alarms_a_day: float) -> Level:
    """Return the lowest level at which the healthy run opens no more cases than the budget gives for its length.

    Args:
        score: float64 [n], n > 0, finite, in order of time, each given by a memory made without its window.
        end: float64 [n], seconds.
        rule: The policy's alarm logic.
        alarms_a_day: The budget; a run too short for one alarm may open none.
    """
    days = watched_days(end)
    allowed = int(alarms_a_day * days)
    levels = np.quantile(score, np.linspace(0, 1, _LEVELS), method="nearest") if len(score) > _LEVELS else score
    tried = np.append(np.unique(levels), np.nextafter(score.max(), np.inf))
    low, high = 0, len(tried) - 1
    while low < high:
        middle = (low + high) // 2
        if cases(score, end, rule, tried[middle]) > allowed:
            low = middle + 1
        else:
            high = middle
    return Level(float(tried[high]), cases(score, end, rule, tried[high]), days)


def cases(score: NDArray[np.float64], end: NDArray[np.float64], rule: AlarmRule, threshold: float) -> int:
    """Count the cases that the device's alarm logic opens on scores."""
    bad, unclear, good = _decided("nok", 1.0), _decided("ok", 1.0), _decided("ok", 0.0)
    case = Case()
    for ratio, now in zip((score / threshold).tolist(), end.tolist(), strict=True):
        case, _ = step(case, bad if ratio >= 1 else good if ratio < rule.clear_ratio else unclear, rule, now)
    return case.number


def most_a_day(count: int, days: float) -> float:
    """Return how many a day there may be on average where ``count`` came in ``days``: Poisson's upper bound at 95 %."""
    low, high = 0.0, 10.0 + 3.0 * count
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(count, middle) > 1 - _CONFIDENCE else (low, middle)
    return high / days if days > 0 else float("inf")


def watched_days(end: NDArray[np.float64]) -> float:
    """Return how long windows' ends follow each other, silences left out."""
    apart = np.diff(end)
    if not len(apart):
        return 0.0
    return float(np.minimum(np.maximum(apart, 0.0), _SILENCE * np.median(apart)).sum()) / _DAY_S


def _at_most(count: int, mean: float) -> float:
    term = total = exp(-mean)
    for number in range(1, count + 1):
        term *= mean / number
        total += term
    return total


def _decided(verdict: Literal["ok", "nok"], score: float) -> Prediction:
    now = "1970-01-01T00:00:00.000Z"  # the alarm logic reads verdict and score alone
    return Prediction(stream="", captured_at=now, decided_at=now, latency_ms=0.0, verdict=verdict, score=score)


def _long(days: float) -> str:
    if days >= 2:
        return f"{days:.1f} days"
    return f"{24 * days:.1f} hours" if days >= 1 / 12 else f"{1440 * days:.0f} minutes"

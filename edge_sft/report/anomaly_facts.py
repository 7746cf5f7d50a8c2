"""What an anomaly model would have done on recorded runs: cases opened, events found, false alarms a day."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edge_sft.metrics.classification import roc
from edge_sft.policy import AlarmRule
from edge_sft.report.cases import Stretch, cases_of, meet, stretches_of
from edge_sft.report.sensor_scores import AnomalyRun, AnomalyScores, Floats

DAY_S = 86_400.0


@dataclass(frozen=True)
class Event:
    """A stretch labelled abnormal and what became of it: when its case opened, or None."""

    run: str
    stretch: Stretch
    opened: float | None
    channels: Floats

    @property
    def delay_s(self) -> float | None:
        """Time from its beginning to the alarm; 0 where a case was open already."""
        return None if self.opened is None else max(0.0, self.opened - self.stretch.start)

    @property
    def left_s(self) -> float | None:
        """Time from the alarm to its end: what was left to act."""
        return None if self.opened is None else self.stretch.end - max(self.opened, self.stretch.start)


@dataclass(frozen=True)
class Watched:
    """One run: its cases, its events, its false alarms (cases that met no event), the normal time that was watched."""

    run: AnomalyRun
    cases: tuple[Stretch, ...]
    events: tuple[Event, ...]
    false: tuple[Stretch, ...]
    normal_s: float
    auroc: float | None

    @property
    def judged(self) -> bool:
        """Whether the machine was commissioned."""
        return bool(np.isfinite(self.run.threshold).any())


@dataclass(frozen=True)
class Pointwise:
    """Window by window: found, raised wrongly, F1; the way public tables count."""

    name: str
    f1: float
    false: float
    missed: float


@dataclass(frozen=True)
class AnomalyFacts:
    """Everything that the page says, computed from one split."""

    scores: AnomalyScores
    rule: AlarmRule

    @cached_property
    def watched(self) -> tuple[Watched, ...]:
        """Every run, in order of names."""
        return tuple(_watch(run, self.rule) for run in self.scores.runs)

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """All events of all runs."""
        return tuple(event for item in self.watched for event in item.events)

    @cached_property
    def found(self) -> tuple[Event, ...]:
        """Those that opened a case."""
        return tuple(event for event in self.events if event.opened is not None)

    @cached_property
    def false(self) -> int:
        """Cases that met no event."""
        return sum(len(item.false) for item in self.watched)

    @cached_property
    def normal_s(self) -> float:
        """Normal time watched over all runs."""
        return sum(item.normal_s for item in self.watched if item.judged)

    @cached_property
    def false_a_day(self) -> tuple[float, float, float]:
        """False alarms a day and machine, with exact 95 % bounds."""
        days = self.normal_s / DAY_S
        if days <= 0:
            return float("nan"), 0.0, float("inf")
        low, high = poisson_bounds(self.false)
        return self.false / days, low / days, high / days

    @cached_property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """Window by window: the alarms, the bare threshold, and "always alarm"."""
        told, open_, over = [], [], []
        for item in self.watched:
            use = (item.run.label >= 0) & ~item.run.commissioning & np.isfinite(item.run.threshold)
            told.append(item.run.label[use] == 1)
            on = np.zeros(len(item.run.time), dtype=np.bool_)
            for case in item.cases:
                on[case.first : case.last + 1] = True
            open_.append(on[use])
            over.append((item.run.ratio >= 1)[use])
        truth = np.concatenate(told)
        if not truth.any() or truth.all():
            return ()
        return (
            _pointwise("this model's alarms", truth, np.concatenate(open_)),
            _pointwise("this model, threshold alone", truth, np.concatenate(over)),
            _pointwise("always alarm", truth, np.ones_like(truth)),
        )

    @cached_property
    def auroc(self) -> float | None:
        """Mean over the runs that have normal and abnormal windows."""
        known = [item.auroc for item in self.watched if item.auroc is not None]
        return float(np.mean(known)) if known else None

    def shares(self, *, false: bool) -> Floats | None:
        """Mean channel contributions in found events, or in false alarms; None where there are none."""
        parts = []
        for item in self.watched:
            stretches = item.false if false else [e.stretch for e in item.events if e.opened is not None]
            for stretch in stretches:
                rows = slice(stretch.first, stretch.last + 1)
                over = item.run.ratio[rows] >= 1
                if over.any():
                    parts.append(item.run.contributions[rows][over].mean(axis=0))
        return np.mean(parts, axis=0) if parts else None


def poisson_bounds(events: int) -> tuple[float, float]:
    """Exact two-sided 95 % bounds of an expected count, from the number that was counted."""
    from scipy.stats import chi2

    low = float(chi2.ppf(0.025, 2 * events) / 2) if events else 0.0
    return low, float(chi2.ppf(0.975, 2 * events + 2) / 2)


def _watch(run: AnomalyRun, rule: AlarmRule) -> Watched:
    ratio = np.where(run.commissioning | ~np.isfinite(run.ratio), 0.0, run.ratio)
    cases = cases_of(run.time, ratio >= 1, rule, ratio)
    labelled = stretches_of(run.time, (run.label == 1) & ~run.commissioning)
    events = tuple(_event(run, stretch, cases) for stretch in labelled)
    false = tuple(case for case in cases if not any(meet(case, event.stretch) for event in events))
    step = float(np.median(np.diff(run.time))) if len(run.time) > 1 else 0.0
    normal = (run.label != 1) & ~run.commissioning
    use = (run.label >= 0) & ~run.commissioning & np.isfinite(run.score)
    curve = roc(run.label[use] == 1, run.score[use]) if use.any() else None
    return Watched(run, cases, events, false, float(normal.sum()) * step, None if curve is None else curve.area)


def _event(run: AnomalyRun, stretch: Stretch, cases: tuple[Stretch, ...]) -> Event:
    met = next((case for case in cases if meet(case, stretch)), None)
    rows = slice(stretch.first if met is None else max(stretch.first, met.first), stretch.last + 1)
    return Event(run.name, stretch, None if met is None else met.start, run.contributions[rows].mean(axis=0))


def _pointwise(name: str, truth: NDArray[np.bool_], raised: NDArray[np.bool_]) -> Pointwise:
    hit = int((truth & raised).sum())
    f1 = 2 * hit / max(1, int(truth.sum()) + int(raised.sum()))
    return Pointwise(name, f1, float(raised[~truth].mean()), float((~raised[truth]).mean()))

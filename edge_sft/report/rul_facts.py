"""How good estimates of remaining life are, in a plant's terms: failures called in time, error by what remained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_sft.policy import RegressionPolicy
from edge_sft.report.cases import cases_of
from edge_sft.report.charts import nice_axis
from edge_sft.report.sensor_scores import Floats, RulRun, RulScores

Outcome = Literal["called", "missed", "not due"]


@dataclass(frozen=True)
class Call:
    """When a run's machine would have been called for maintenance; ``left`` is the life it then truly had.

    ``called`` in time, ``missed`` (failed before any call), or ``not due``: the record ends before a failure and
    before a call.
    """

    run: str
    outcome: Outcome
    at: float | None = None
    left: float | None = None


@dataclass(frozen=True)
class Calls:
    """What becomes of all runs when maintenance is called at ``act_below``."""

    act_below: float
    calls: tuple[Call, ...]
    failures: int

    @cached_property
    def notices(self) -> Floats:
        """Life left at each call of a run that was seen to fail, rising."""
        return np.sort([call.left for call in self.calls if call.outcome == "called" and call.left is not None])

    @property
    def missed(self) -> int:
        """Failures without a call before them."""
        return sum(call.outcome == "missed" for call in self.calls)


@dataclass(frozen=True)
class Horizon:
    """Windows with between ``low`` and ``high`` life left; errors are estimate − truth in the task's unit."""

    low: float
    high: float
    runs: int
    windows: int
    typical: float
    most: float
    p10: float
    median: float
    p90: float
    late: float
    held: float
    width: float


@dataclass(frozen=True)
class _Windows:
    truth: Floats
    value: Floats
    low: Floats
    high: Floats
    run: NDArray[np.int64]

    def only(self, rows: NDArray[np.bool_]) -> _Windows:
        return _Windows(self.truth[rows], self.value[rows], self.low[rows], self.high[rows], self.run[rows])


@dataclass(frozen=True)
class Rmse:
    """Root mean square error and NASA's score of one way to answer; ``capped`` against truth up to the cap."""

    name: str
    capped: float
    raw: float
    nasa: float


@dataclass(frozen=True)
class RulFacts:
    """Everything that the page says, computed from one split."""

    scores: RulScores
    policy: RegressionPolicy
    validation: RulScores | None = None

    @cached_property
    def followed(self) -> RulFacts:
        """The facts that know failures: these, or validation's where no run here was followed to its end."""
        if self.finished or self.validation is None:
            return self
        other = RulFacts(self.validation, self.policy)
        return other if other.finished else self

    @property
    def cap(self) -> float:
        """Life beyond which nothing can be seen yet."""
        return self.scores.cap

    @cached_property
    def finished(self) -> frozenset[str]:
        """Runs that were followed to their failure."""
        return frozenset(run.name for run in self.scores.runs if _fails(run))

    @cached_property
    def calls(self) -> Calls:
        """What the recipe's own policy does."""
        return self.calls_at(self.policy.act_below)

    def calls_at(self, act_below: float) -> Calls:
        """What another ``act_below`` would do."""
        told = [_call(run, act_below, self.policy, fails=run.name in self.finished) for run in self.scores.runs]
        return Calls(act_below, tuple(told), len(self.finished))

    @cached_property
    def choices(self) -> tuple[Calls, ...]:
        """A few round values of ``act_below`` with the policy's own among them."""
        top = min(self.cap, max(float(run.rul.max()) for run in self.scores.runs))
        step = nice_axis(top / 2.5, str).ticks[1][0]
        values = {step / 2, *(step * index for index in range(1, 6)), self.policy.act_below}
        return tuple(self.calls_at(value) for value in sorted(values) if value > 0)

    @cached_property
    def horizons(self) -> tuple[Horizon, ...]:
        """Error by what truly remained: five steps up to the cap, and beyond it."""
        pool = self._pooled
        top = self.cap if np.isfinite(self.cap) else float(pool.truth.max())
        edges = [value for value, _ in nice_axis(top, str).ticks if value < top] + [top]
        edges = [*edges, np.inf] if (pool.truth > top).any() else edges
        found = []
        for start, end in pairwise(edges):
            rows = (pool.truth > start) & (pool.truth <= end)
            if end == edges[1]:
                rows |= pool.truth <= start
            if rows.any():
                found.append(_horizon(start, end, pool.only(rows), self.cap))
        return tuple(found)

    @property
    def near(self) -> Horizon | None:
        """The horizon next to failure that enough runs reached to speak of it; None where hardly any got there."""
        enough = max(3, len(self.scores.runs) // 5)
        return next((part for part in self.horizons if part.runs >= enough and np.isfinite(part.high)), None)

    @cached_property
    def overall(self) -> Horizon:
        """All windows together."""
        return _horizon(0.0, np.inf, self._pooled, self.cap)

    @cached_property
    def compared(self) -> tuple[Rmse, ...]:
        """Ours beside "predict the mean", every window."""
        return self._against_mean(self._pooled.truth, self._pooled.value)

    @cached_property
    def compared_last(self) -> tuple[Rmse, ...]:
        """The same on the last window of each run: how C-MAPSS is published. Empty where all runs end in failure."""
        if len(self.finished) == len(self.scores.runs):
            return ()
        return self._against_mean(
            np.array([run.rul[-1] for run in self.scores.runs]), np.array([run.value[-1] for run in self.scores.runs])
        )

    def _against_mean(self, truth: Floats, value: Floats) -> tuple[Rmse, ...]:
        mean = np.full_like(truth, self.scores.mean)
        named = [("this model", value), (f"always the mean ({self.scores.mean:.3g})", mean)]
        return tuple(_rmse(name, truth, said, self.cap) for name, said in named)

    @cached_property
    def ranked(self) -> tuple[tuple[RulRun, float], ...]:
        """Runs with their root mean square error against capped truth, worst first."""
        rated = [(run, _root(run.value - np.minimum(run.rul, self.cap))) for run in self.scores.runs]
        return tuple(sorted(rated, key=lambda pair: -pair[1]))

    @cached_property
    def _pooled(self) -> _Windows:
        runs = self.scores.runs
        return _Windows(
            truth=np.concatenate([run.rul for run in runs]),
            value=np.concatenate([run.value for run in runs]),
            low=np.concatenate([run.low for run in runs]),
            high=np.concatenate([run.high for run in runs]),
            run=np.repeat(np.arange(len(runs)), [len(run.rul) for run in runs]),
        )


def show(runs: Sequence[tuple[RulRun, float]], most: int = 6) -> list[tuple[str, RulRun]]:
    """Pick runs to draw from a ranking, worst first: the worst, those in the middle, the best; each with its word."""
    if len(runs) <= most:
        return [("", run) for run, _ in runs]
    part, middle = most // 3, len(runs) // 2
    chosen = [("among the worst", pair[0]) for pair in runs[:part]]
    chosen += [("in the middle", pair[0]) for pair in runs[middle - part // 2 : middle - part // 2 + part]]
    return chosen + [("among the best", pair[0]) for pair in runs[-part:]]


def _fails(run: RulRun) -> bool:
    step = float(np.median(np.diff(run.end))) if len(run.end) > 1 else 1.0
    return bool(run.rul[-1] <= max(step, 1e-9) * 1.001)


def _call(run: RulRun, act_below: float, policy: RegressionPolicy, *, fails: bool) -> Call:
    low = (run.low if policy.judge == "low" else run.value) <= act_below
    opened = cases_of(run.end, low, policy.alarm)
    if opened and run.rul[opened[0].first] > 0:
        return Call(run.name, "called", opened[0].start, float(run.rul[opened[0].first]))
    return Call(run.name, "missed" if fails else "not due")


def _horizon(start: float, end: float, windows: _Windows, cap: float) -> Horizon:
    seen = np.minimum(windows.truth, cap)
    error = windows.value - seen
    p10, median, p90 = np.quantile(error, [0.1, 0.5, 0.9])
    far = np.quantile(np.abs(error), [0.5, 0.9])
    held = (windows.low <= seen + 1e-9) & (seen <= windows.high + 1e-9)
    return Horizon(
        low=float(start), high=float(end), runs=len(np.unique(windows.run)), windows=len(seen), typical=float(far[0]),
        most=float(far[1]), p10=float(p10), median=float(median), p90=float(p90), late=float((error > 0).mean()),
        held=float(held.mean()), width=float(np.median(windows.high - windows.low)),
    )  # fmt: skip


def _rmse(name: str, truth: Floats, value: Floats, cap: float) -> Rmse:
    error = value - np.minimum(truth, cap)
    return Rmse(name, _root(error), _root(value - truth), float(_nasa(error).sum()))


def _nasa(error: Floats) -> Floats:
    """NASA's penalty (Saxena 2008): an estimate too late costs more than one too early."""
    return np.asarray(np.expm1(np.minimum(np.where(error < 0, -error / 13.0, error / 10.0), 100.0)))


def _root(error: Floats) -> float:
    return float(np.sqrt(np.mean(error**2)))

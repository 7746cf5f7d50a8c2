"""Commissioning: a machine's own mean, deviation, memory and threshold, computed on it from a run known healthy.

Pure: windows and a way to ask the model in, a frozen value out. `edge_sft.slots.commissioning_file` keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import DataError, UserError
from edge_sft.policy import AlarmRule, AnomalyPolicy, CommissioningRule
from edge_sft.preprocess import Windowing
from edge_sft.preprocess.window import Window
from edge_sft.slots.budget import lowest
from edge_sft.slots.memories import remember, spread
from edge_sft.task import Task

Infer = Callable[[dict[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]

# What is kept of a very long healthy run: more windows change neither a quantile nor a memory of some hundred rows.
MOST_WINDOWS = 20_000
_BATCH = 64
# Where long stretches are so much less like each other than short ones, the run does not repeat itself: what it did
# once is all that is known of that state.
_LONG_BLOCKS = 5
_UNLIKE = 1.5
# A channel that was there in fewer windows than this is not watched: what it is like when healthy is not known.
_WATCHED_SHARE = 0.5
_WHOLE_SHARE = 0.5  # of a channel's usual values; the graph calls a channel with fewer missing, too
_RESOLUTION = 1e-6  # of float32: what moves less, relative to its value, does not move
_AT_ONCE = AlarmRule()
_NEVER = 1e9  # an unwatched channel's deviation: whatever it says counts as its mean


@dataclass(frozen=True)
class Healthy:
    """Windows of one machine's healthy run, in order of time.

    Attributes:
        values: float32 [n, T, C], finite, 0 where not valid.
        valid: float32 [n, T, C] in {0, 1}.
        end: float64 [n], time of each window's last grid step, in the source's clock.
    """

    values: NDArray[np.float32]
    valid: NDArray[np.float32]
    end: NDArray[np.float64]

    @classmethod
    def of(cls, windows: Sequence[Window]) -> Healthy:
        """Stack windows as a `WindowBuffer` made them. Raises DataError when there are none."""
        if not windows:
            raise DataError("the healthy run", "gives no window", "Give a longer run, with the model's channels.")
        return cls(
            np.stack([window.values for window in windows]),
            np.stack([window.valid for window in windows]),
            np.array([window.end for window in windows], dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.end)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Healthy:
        """Return the windows at these positions."""
        return Healthy(self.values[index], self.valid[index], self.end[index])


class Collector:
    """Collects windows of one machine, however many: evenly thinned out when they are more than can be of use.

    Args:
        most: How many are kept at least, once so many came; at most twice that.
        most_bytes: Long windows are kept in smaller number.
    """

    def __init__(self, most: int = MOST_WINDOWS, most_bytes: int = 256 * 2**20) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._kept: list[Window] = []
        self._every = 1
        self.given = 0

    def add(self, windows: Sequence[Window]) -> None:
        """Take windows in order of time."""
        for window in windows:
            if self.given % self._every == 0:
                self._kept.append(window)
            self.given += 1
            size = window.values.nbytes + window.valid.nbytes
            if len(self._kept) > 2 * max(100, min(self._most, self._most_bytes // (2 * size))):
                self._kept = self._kept[::2]
                self._every *= 2

    def healthy(self) -> Healthy:
        """Return what is kept. Raises DataError when that is nothing."""
        return Healthy.of(self._kept)


@dataclass(frozen=True)
class Commissioning:
    """What one machine's healthy run taught one model.

    Attributes:
        model_digest: SHA-256 of the manifest of the model it belongs to; no other model may use it.
        asset: Name of the machine.
        inputs: The graph's local inputs: ``mean``, ``std`` float32 [C], ``bank`` float32 [M,D] where it has one.
        threshold: Score at and above which the machine is ``nok``.
        windows: How many windows it was made of.
        first: End of the first one, in the source's clock.
        last: End of the last one.
        created_at: UTC, RFC 3339.
        source: From what, for people: a file, a stretch of time.
        facts: What people should know about it: channels that are not watched, windows left out.
    """

    model_digest: str
    asset: str
    inputs: dict[str, NDArray[np.float32]] = field(repr=False)
    threshold: float
    windows: int
    first: float
    last: float
    created_at: str
    source: str
    facts: tuple[str, ...] = ()

    def policy(self, default: AnomalyPolicy) -> AnomalyPolicy:
        """Return the machine's own policy: the default with its threshold."""
        return default.model_copy(update={"threshold": self.threshold})


def commission(
    infer: Infer,
    task: Task,
    windowing: Windowing,
    healthy: Healthy,
    rule: CommissioningRule,
    *,
    model_digest: str,
    asset: str,
    created_at: str,
    source: str,
    alarm: AlarmRule = _AT_ONCE,
) -> Commissioning:
    """Compute a machine's local inputs and threshold from its healthy run, and from nothing else.

    The threshold comes from scores that no window gave itself: the run is cut into stretches, and each is scored by
    a memory of the others, windows that overlap it left out.

    Args:
        infer: Runs the graph on a batch: inputs by name → outputs by name.
        task: The model's.
        windowing: The model's.
        healthy: The run's windows in order of time.
        rule: How; the policy's ``commissioning``.
        model_digest: Which model it will belong to.
        asset: Name of the machine.
        created_at: UTC, RFC 3339.
        source: From what, for people.
        alarm: The policy's; of use where the rule has a budget of alarms.

    Raises:
        UserError: The model takes no commissioning.
        DataError: The run is too short, or no channel was there.
    """
    if task.kind != "anomaly":
        raise UserError("the model", f"does {task.kind} and needs no commissioning", "Deploy it and run the agent.")
    kept, watched, facts = _whole(healthy, windowing, rule, source)
    mean, std = statistics(kept, watched)
    local: dict[str, NDArray[np.float32]] = {"mean": mean, "std": std}
    shape = next((spec.shape for spec in task.inputs if spec.name == "bank"), None)
    if shape is None:
        scores = _ask(infer, kept, local)["score"].astype(np.float64)
    else:
        run = _Remembered(infer, kept, local, (shape[0], shape[1]), rule, windowing)
        scores = run.scored_by_others(rule.blocks, source)
        facts += run.does_not_repeat(scores)
        local["bank"] = remember(run.features, shape[0], rule)
    threshold, sentences = _threshold(scores, kept, rule, alarm, source)
    return Commissioning(
        model_digest=model_digest,
        asset=asset,
        inputs=local,
        threshold=threshold,
        windows=len(kept),
        first=float(kept.end[0]),
        last=float(kept.end[-1]),
        created_at=created_at,
        source=source,
        facts=facts + sentences,
    )


def _whole(
    healthy: Healthy, windowing: Windowing, rule: CommissioningRule, source: str
) -> tuple[Healthy, NDArray[np.bool_], tuple[str, ...]]:
    """Return the windows that may teach, the channels they are about, [C], and what to say of the others.

    A window in which a watched channel has less than half of the values it usually has is no example of health.
    """
    kept = healthy.take(spread(len(healthy), MOST_WINDOWS))
    count = kept.valid.sum(axis=1)
    watched = (count > 0).mean(axis=0) >= _WATCHED_SHARE
    if not watched.any():
        raise DataError(source, "has no channel that is there half of the time", "Check the columns' names.")
    usual = np.array([np.median(one[one > 0]) if (one > 0).any() else 0.0 for one in count.T])
    whole = (count >= np.maximum(_WHOLE_SHARE * usual, 1.0))[:, watched].all(axis=1)
    kept = kept.take(whole)
    if len(kept) < rule.min_windows:
        fact = f"gives {len(kept)} whole windows, {rule.min_windows} are needed"
        raise DataError(source, fact, "Give a longer healthy run.")
    return kept, watched, _facts(windowing, watched, len(healthy), int((~whole).sum()))


def _threshold(
    scores: NDArray[np.float64], kept: Healthy, rule: CommissioningRule, alarm: AlarmRule, source: str
) -> tuple[float, tuple[str, ...]]:
    """Return the score at which to call a window ``nok``, and what to say of it."""
    sentences: tuple[str, ...] = ()
    if rule.alarms_a_day is None:
        level = float(np.quantile(scores, rule.quantile))
    else:
        found = lowest(scores, kept.end, alarm, rule.alarms_a_day)
        level, sentences = found.score, (found.sentence(),)
    if not np.isfinite(level) or level <= 0:
        raise DataError(source, "gives no usable threshold: the machine stood still", "Give a run of its normal work.")
    return rule.factor * level, sentences


def statistics(healthy: Healthy, watched: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return each channel's mean and standard deviation over its valid cells, float32 [C].

    A channel that does not move gets a thousandth of its value as deviation; one that is not watched gets one beside
    which whatever it says is nothing.
    """
    total = np.zeros(len(watched))
    squares = np.zeros(len(watched))
    count = np.zeros(len(watched))
    shift = _first_valid(healthy)
    for start in range(0, len(healthy), 1024):
        valid = healthy.valid[start : start + 1024].astype(np.float64)
        apart = (healthy.values[start : start + 1024] - shift) * valid
        total += apart.sum(axis=(0, 1))
        squares += (apart * apart).sum(axis=(0, 1))
        count += valid.sum(axis=(0, 1))
    count = np.maximum(count, 1.0)
    mean = shift + total / count
    std = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0.0))
    still = std <= _RESOLUTION * np.abs(mean)
    std = np.where(still, np.maximum(1e-3 * np.abs(mean), 1e-6), std)
    return np.where(watched, mean, 0.0).astype(np.float32), np.where(watched, std, _NEVER).astype(np.float32)


def _first_valid(healthy: Healthy) -> NDArray[np.float64]:
    """Each channel's first valid value: what squares are taken around, so that none is lost to a large offset."""
    flat_valid = healthy.valid[:1024].reshape(-1, healthy.valid.shape[2])
    flat = healthy.values[:1024].reshape(-1, healthy.values.shape[2])
    at = flat_valid.argmax(axis=0)
    return np.asarray(flat[at, np.arange(flat.shape[1])], dtype=np.float64)


class _Remembered:
    """A healthy run and a model with a memory.

    Args:
        infer: As for `commission`.
        healthy: Whole windows.
        local: The local inputs but for the memory.
        shape: The memory's.
        rule: As for `commission`.
        windowing: As for `commission`.
    """

    def __init__(
        self,
        infer: Infer,
        healthy: Healthy,
        local: Mapping[str, NDArray[np.float32]],
        shape: tuple[int, int],
        rule: CommissioningRule,
        windowing: Windowing,
    ) -> None:
        self._infer, self._healthy, self._local = infer, healthy, dict(local)
        self._rows, self._rule = shape[0], rule
        self._span = windowing.length * windowing.period_s
        blank = np.zeros(shape, dtype=np.float32)
        self.features = _ask(infer, healthy, {**local, "bank": blank})["features"].astype(np.float64)

    def scored_by_others(self, blocks: int, source: str) -> NDArray[np.float64]:
        """Score every stretch by a memory of the others; windows that overlap the stretch teach nothing about it."""
        end, scores = self._healthy.end, []
        for block in np.array_split(np.arange(len(end)), blocks):
            others = (end < end[block[0]] - self._span) | (end > end[block[-1]] + self._span)
            if others.sum() < self._rule.min_windows:
                fact = f"is too short to score one stretch by the others ({others.sum()} windows are left for it)"
                raise DataError(source, fact, "Give a longer healthy run.")
            memory = {**self._local, "bank": remember(self.features[others], self._rows, self._rule)}
            scores.append(_ask(self._infer, self._healthy.take(block), memory)["score"])
        return np.concatenate(scores).astype(np.float64)

    def does_not_repeat(self, scores: NDArray[np.float64]) -> tuple[str, ...]:
        """Say so when the run's fifths are unlike each other: it was too short to see everything twice."""
        if self._rule.blocks <= _LONG_BLOCKS:
            return ()
        try:
            apart = self.scored_by_others(_LONG_BLOCKS, "")
        except DataError:
            return ()
        level = self._rule.quantile
        share = float(np.quantile(apart, level)) / max(float(np.quantile(scores, level)), 1e-9)
        if share < _UNLIKE:
            return ()
        fact = f"the run does not repeat itself (its parts differ {share:.1f} times more than its moments)"
        return (f"{fact}: a longer run, over all that the machine does, would be better",)


def _ask(infer: Infer, healthy: Healthy, local: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    parts: list[Mapping[str, NDArray[Any]]] = []
    for start in range(0, len(healthy), _BATCH):
        stop = start + _BATCH
        batch: dict[str, NDArray[Any]] = {"window": healthy.values[start:stop], "valid": healthy.valid[start:stop]}
        parts.append(infer({**batch, **local}))
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}


def _facts(windowing: Windowing, watched: NDArray[np.bool_], given: int, left_out: int) -> tuple[str, ...]:
    facts = [
        f"{name} was missing in most of the run and is not watched"
        for name, there in zip(windowing.names, watched, strict=True)
        if not there
    ]
    if left_out:
        facts.append(f"{left_out} windows with a channel missing, or half missing, were left out")
    if given > MOST_WINDOWS:
        facts.append(f"{MOST_WINDOWS} of {given} windows were used, evenly over the run")
    return tuple(facts)

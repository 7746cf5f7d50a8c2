"""What an anomaly model would have said about recorded runs, had each machine been commissioned at its beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_sft.alarms import Case, step
from edge_sft.data.sensors.dataset import Run
from edge_sft.errors import DataError
from edge_sft.metrics.classification import roc
from edge_sft.policy import AlarmRule, AnomalyPolicy
from edge_sft.prediction import Prediction, rfc3339
from edge_sft.preprocess import Windowing
from edge_sft.progress import Progress, Silent
from edge_sft.slots.commissioning import MOST_WINDOWS, Commissioning, Healthy, Infer, commission
from edge_sft.slots.memories import spread
from edge_sft.task import Task
from edge_sft.training.sensors.windows import Laid, affordable

_NOWHERE = "0" * 64
_DAY_S = 86_400.0
_BATCH = 256
_TOLD = 100 * _BATCH


@dataclass(frozen=True)
class Judged:
    """One run as its own machine's commissioning judges it; arrays are parallel, one entry a window.

    Attributes:
        run: Its name.
        time: float64 [n], end of each window.
        score: float64 [n].
        threshold: The machine's own; NaN = its beginning was too short to commission it.
        label: int64 [n]: 1 abnormal, 0 normal, -1 unknown.
        contributions: float32 [n, C].
        commissioning: bool [n], windows that the threshold was made from.
        alarmed: bool [n], whether a case was open.
        opened: How many cases opened after commissioning.
        why: Why it was not commissioned; None normally.
    """

    run: str
    time: NDArray[np.float64]
    score: NDArray[np.float64]
    threshold: float
    label: NDArray[np.int64]
    contributions: NDArray[np.float32]
    commissioning: NDArray[np.bool_]
    alarmed: NDArray[np.bool_]
    opened: int
    why: str | None = None

    @property
    def watched(self) -> NDArray[np.bool_]:
        """Windows that are judged: after commissioning."""
        return np.asarray(~self.commissioning & np.isfinite(self.threshold))


def asker(module: nn.Module, task: Task) -> Infer:
    """Return a function that asks the network as an engine is asked: inputs by name → outputs by name."""
    names = [spec.name for spec in task.inputs]
    told = [spec.name for spec in task.outputs]

    def infer(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            outputs = module(*(torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in names))
        return {name: tensor.numpy() for name, tensor in zip(told, outputs, strict=True)}

    return infer


def judge_run(
    infer: Infer,
    task: Task,
    windowing: Windowing,
    policy: AnomalyPolicy,
    run: Run,
    *,
    head_s: float | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> Judged:
    """Commission a machine on the beginning of a run and judge what follows.

    The beginning is the run's first third, or the first ``head_s`` of the time column's unit; it ends at the first
    row labelled abnormal. ``progress`` is told on the way how many windows were judged.
    """
    windows = Laid(windowing, run)
    label = np.full(len(windows), -1, dtype=np.int64) if windows.label is None else windows.label
    head = _head(windows.end, label, head_s)
    known, why = _commissioned(infer, task, windowing, policy, run, windows, head)
    inputs = blank_inputs(task) if known is None else known.inputs
    score, contributions = _scores(infer, windows, inputs, len(windowing.names), progress)
    threshold = float("nan") if known is None else known.threshold
    alarmed, opened = follow(score, windows.end, threshold, policy.alarm, ~head)
    return Judged(run.id, windows.end, score, threshold, label, contributions, head, alarmed, opened, why)


def follow(
    score: NDArray[np.float64],
    time: NDArray[np.float64],
    threshold: float,
    rule: AlarmRule,
    watched: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], int]:
    """Run the alarm logic of the device over scores; return where a case was open, and how many opened."""
    alarmed = np.zeros(len(score), dtype=np.bool_)
    if not np.isfinite(threshold):
        return alarmed, 0
    case, opened = Case(), 0
    now = rfc3339(datetime.fromtimestamp(0, timezone.utc))
    blank = Prediction(stream="", captured_at=now, decided_at=now, latency_ms=0, verdict="ok")
    rows = np.flatnonzero(watched)
    ratios = score[rows] / threshold
    eventful = np.flatnonzero(~(ratios < 1))  # nok, or not to be decided
    at = 0
    while at < len(rows):
        if not case.open and case.bad_since_s is None:  # until the next of them nothing can begin
            following = int(np.searchsorted(eventful, at))
            if following == len(eventful):
                break
            at = int(eventful[following])
        row, ratio = rows[at], float(ratios[at])
        finite = np.isfinite(ratio)
        verdict = "no_decision" if not finite else "nok" if ratio >= 1 else "ok"
        told = blank.model_copy(update={"verdict": verdict, "score": ratio if finite else None})
        case, events = step(case, told, rule, float(time[row]))
        opened += sum(event.kind == "case_opened" for event in events)
        alarmed[row] = case.open
        at += 1
    return alarmed, opened


def numbers(judged: Sequence[Judged]) -> dict[str, float]:
    """Return the metrics of a split: AUROC (mean of the runs that have both kinds), window-wise F1, false and missed
    alarms of the open cases, what "always alarm" gets, cases a day. What cannot be known is left out.
    """
    found: dict[str, float] = {"runs": float(len(judged)), "windows": float(sum(len(one.time) for one in judged))}
    found["commissioned"] = float(sum(np.isfinite(one.threshold) for one in judged))
    curves = [roc(one.label[used] == 1, one.score[used]) for one in judged if (used := _labelled(one)).any()]
    areas = [curve.area for curve in curves if curve is not None]
    if areas:
        found["auroc"] = float(np.mean(areas))
    parts = [(one.label[used] == 1, one.alarmed[used]) for one in judged if (used := _labelled(one)).any()]
    if parts:
        truth = np.concatenate([part[0] for part in parts])
        found |= pointwise(truth, np.concatenate([part[1] for part in parts]))
        found["always_alarm_f1"] = pointwise(truth, np.ones_like(truth)).get("f1", 0.0)
    days = sum(_watched_days(one) for one in judged)
    if days > 0:
        found["cases_a_day"] = sum(one.opened for one in judged) / days
    return found


def pointwise(truth: NDArray[np.bool_], alarmed: NDArray[np.bool_]) -> dict[str, float]:
    """Return F1, false alarm rate and missed alarm rate, as public tables count them."""
    hit, false = float((truth & alarmed).sum()), float((~truth & alarmed).sum())
    missed, quiet = float((truth & ~alarmed).sum()), float((~truth & ~alarmed).sum())
    found: dict[str, float] = {}
    if hit + missed:
        found |= {"f1": 2 * hit / (2 * hit + false + missed), "missed": missed / (hit + missed)}
    if false + quiet:
        found["false"] = false / (false + quiet)
    return found


def scores_of(split: str, judged: Sequence[Judged]) -> dict[str, NDArray[Any]]:
    """Return the arrays that the report reads, named ``<split>/<name>``."""
    if not judged:
        return {}
    lengths = [len(one.time) for one in judged]
    return {
        f"{split}/run": np.repeat(np.array([one.run for one in judged], dtype=np.str_), lengths),
        f"{split}/time": np.concatenate([one.time for one in judged]),
        f"{split}/score": np.concatenate([one.score for one in judged]),
        f"{split}/threshold": np.repeat(np.array([one.threshold for one in judged]), lengths),
        f"{split}/label": np.concatenate([one.label for one in judged]),
        f"{split}/contributions": np.concatenate([one.contributions for one in judged]),
        f"{split}/commissioning": np.concatenate([one.commissioning for one in judged]),
    }


def blank_inputs(task: Task) -> dict[str, NDArray[np.float32]]:
    """Return local inputs of a machine about which nothing is known; finite, and of no use for deciding."""
    local = [spec for spec in task.inputs if spec.name not in ("window", "valid")]
    return {spec.name: np.full(spec.shape, spec.name == "std", dtype=np.float32) for spec in local}


def _commissioned(
    infer: Infer,
    task: Task,
    windowing: Windowing,
    policy: AnomalyPolicy,
    run: Run,
    windows: Laid,
    head: NDArray[np.bool_],
) -> tuple[Commissioning | None, str | None]:
    beginning = np.flatnonzero(head)
    some = windows.take(beginning[spread(len(beginning), affordable(windowing, MOST_WINDOWS))])
    healthy = Healthy(some.values, some.valid, some.end)
    labels = {"model_digest": _NOWHERE, "asset": run.asset, "created_at": "", "source": run.id}
    try:
        made = commission(infer, task, windowing, healthy, policy.commissioning, **labels, alarm=policy.alarm)
        return made, None
    except DataError as error:
        return None, str(error)


def _head(end: NDArray[np.float64], label: NDArray[np.int64], head_s: float | None) -> NDArray[np.bool_]:
    head = np.zeros(len(end), dtype=np.bool_)
    if not len(end):
        return head
    if head_s is None:
        head[: max(1, len(end) // 3)] = True
    else:
        head = end <= end[0] + head_s
    bad = np.flatnonzero(label == 1)
    if len(bad):
        head[bad[0] :] = False
    return head


def _scores(
    infer: Infer, windows: Laid, inputs: dict[str, NDArray[np.float32]], channels: int, progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    scores, shares = [np.zeros(0)], [np.zeros((0, channels), dtype=np.float32)]
    for start in range(0, len(windows), _BATCH):
        part = windows.take(slice(start, start + _BATCH))
        outputs = infer({"window": part.values, "valid": part.valid, **inputs})
        scores.append(outputs["score"].astype(np.float64))
        shares.append(outputs["contributions"])
        if start % _TOLD == 0:
            progress.advance(0, note=f"{start:,} of {len(windows):,} windows")
    return np.concatenate(scores), np.concatenate(shares)


def _labelled(one: Judged) -> NDArray[np.bool_]:
    return one.watched & (one.label >= 0) & np.isfinite(one.score)


def _watched_days(one: Judged) -> float:
    time = one.time[one.watched]
    return float(time[-1] - time[0]) / _DAY_S if len(time) > 1 else 0.0

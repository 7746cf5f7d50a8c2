"""What a sensor model's page needs to be told, as arrays that fit into one ``sensor_scores.npz``.

Keys are ``<split>/<name>`` with split ``val`` or ``test``; N windows in any order, each the one that ended at its
time. ``run`` is the run's name (unicode [N]); for long recordings an int64 [N] index into ``<split>/runs`` (unicode
[R]) may stand for it.

===========  ========================================================================================================
kind         keys
===========  ========================================================================================================
regression   ``run``; ``end`` float [N] (time of the window's end, in the time column's unit); ``rul`` float [N] (what
             truly remained, **not** capped, NaN = unknown); ``value``, ``low``, ``high`` float [N].
             Optional: ``cap`` float [] (beyond it life counted as this; else the checkpoint's ``training.cap``),
             ``train/mean_rul`` float [] (mean of the training windows' capped life: the "predict the mean" line; the
             other split's mean stands in).
anomaly      ``run``; ``time`` float [N] (s); ``score`` float [N]; ``threshold`` float [N] (the machine's own, NaN =
             not commissioned); ``label`` int [N] (1 abnormal, 0 normal, -1 unknown); ``contributions`` float [N,C].
             Optional: ``commissioning`` bool [N] (windows that the threshold was made from: never judged).
faults       ``run``; ``probabilities`` float [N,K]; ``label`` int [N] (index into the task's labels, -1 = unknown).
             Optional: ``group`` unicode [N] (machine or bearing; windows of one are not independent of each other).
===========  ========================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import DataError

Floats = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]
SplitName = Literal["test", "val"]

_AGAIN = "Train again with this version."


@dataclass(frozen=True)
class RulRun:
    """One run's estimates in order of time; all float64 [n], ``rul`` not capped."""

    name: str
    end: Floats = field(repr=False)
    rul: Floats = field(repr=False)
    value: Floats = field(repr=False)
    low: Floats = field(repr=False)
    high: Floats = field(repr=False)


@dataclass(frozen=True)
class RulScores:
    """A split's runs; ``mean`` is what "predict the mean" says, ``cap`` infinity where there is none."""

    split: SplitName
    runs: tuple[RulRun, ...]
    cap: float
    mean: float


@dataclass(frozen=True)
class AnomalyRun:
    """One run in order of time: float64 [n]; ``label`` -1, 0, 1; ``contributions`` [n, C]; ``commissioning`` bool."""

    name: str
    time: Floats = field(repr=False)
    score: Floats = field(repr=False)
    threshold: Floats = field(repr=False)
    label: NDArray[np.int64] = field(repr=False)
    contributions: Floats = field(repr=False)
    commissioning: NDArray[np.bool_] = field(repr=False)

    @property
    def ratio(self) -> Floats:
        """The score against the machine's threshold (1 = at it); NaN where there is none."""
        return np.maximum(self.score, 0.0) / self.threshold


@dataclass(frozen=True)
class AnomalyScores:
    """A split's runs."""

    split: SplitName
    runs: tuple[AnomalyRun, ...]


@dataclass(frozen=True)
class FaultRun:
    """One recording: ``probabilities`` [n, K] of its windows, its label (-1 = unknown) and whose it is."""

    name: str
    group: str
    label: int
    probabilities: Floats = field(repr=False)

    @property
    def vote(self) -> Floats:
        """What the recording's windows say together: their mean, [K]."""
        return np.asarray(self.probabilities.mean(axis=0))


@dataclass(frozen=True)
class FaultScores:
    """A split's labelled recordings. One whose windows bear different labels counts once for each."""

    split: SplitName
    runs: tuple[FaultRun, ...]


def regression(scores: Arrays, *, name: str, only: SplitName | None = None) -> RulScores:
    """Read a RUL model's scores, test where it has any known life, else validation; or ``only`` one of them.

    Raises:
        DataError: No window with known life, or arrays that do not belong together.
    """
    for split in [split for split in _splits(scores) if only in (None, split)]:
        part = _part(scores, split, ("end", "rul", "value", "low", "high"), name)
        known = np.isfinite(part["rul"]) & np.isfinite(part["value"])
        if known.any():
            runs = [RulRun(run, *(part[key][rows] for key in ("end", "rul", "value", "low", "high")))
                    for run, rows in _runs(part["run"], part["end"], known)]  # fmt: skip
            cap = float(scores[f"{split}/cap"]) if f"{split}/cap" in scores else float(scores.get("cap", np.inf))
            return RulScores(split, tuple(runs), cap, _mean(scores, split, cap, part["rul"][known]))
    raise DataError(name, "has no scored window whose remaining life is known", _AGAIN)


def anomaly(scores: Arrays, *, name: str) -> AnomalyScores:
    """Read an anomaly model's scores, test where there are any, else validation.

    Raises:
        DataError: No scored window, or arrays that do not belong together.
    """
    for split in _splits(scores):
        part = _part(scores, split, ("time", "score", "threshold", "label", "contributions"), name)
        seen = scores.get(f"{split}/commissioning", np.zeros(len(part["run"]), dtype=np.bool_))
        runs = [
            AnomalyRun(
                run,
                part["time"][rows],
                part["score"][rows],
                part["threshold"][rows],
                part["label"][rows].astype(np.int64),
                part["contributions"][rows].reshape(len(rows), -1),
                np.asarray(seen, dtype=np.bool_)[rows],
            )
            for run, rows in _runs(part["run"], part["time"], np.ones(len(part["run"]), dtype=np.bool_))
        ]
        return AnomalyScores(split, tuple(runs))
    raise DataError(name, "has no scored windows to report on", _AGAIN)


def faults(scores: Arrays, *, name: str) -> FaultScores:
    """Read a fault classifier's scores, test where it has labelled windows, else validation.

    Raises:
        DataError: No labelled window, or arrays that do not belong together.
    """
    for split in _splits(scores):
        part = _part(scores, split, ("label", "probabilities"), name)
        label, probabilities = part["label"].astype(np.int64), part["probabilities"].reshape(len(part["run"]), -1)
        groups = np.asarray(scores.get(f"{split}/group", part["run"])).astype(str)
        runs = []
        for run, rows in _runs(part["run"], np.arange(len(label), dtype=np.float64), label >= 0):
            for kind in np.unique(label[rows]):
                here = rows[label[rows] == kind]
                runs.append(FaultRun(run, str(groups[here[0]]), int(kind), probabilities[here]))
        if runs:
            return FaultScores(split, tuple(runs))
    raise DataError(name, "has no scored window whose label is known", _AGAIN)


def _splits(scores: Arrays) -> list[SplitName]:
    order: tuple[SplitName, ...] = ("test", "val")
    return [split for split in order if f"{split}/run" in scores and len(scores[f"{split}/run"])]


def _part(scores: Arrays, split: str, names: tuple[str, ...], thing: str) -> dict[str, NDArray[Any]]:
    missing = [key for key in names if f"{split}/{key}" not in scores]
    if missing:
        raise DataError(thing, f"has scores without {', '.join(f'{split}/{key}' for key in missing)}", _AGAIN)
    run = np.asarray(scores[f"{split}/run"])
    if run.dtype.kind in "iu":
        run = np.asarray(scores[f"{split}/runs"]).astype(str)[run]
    part = {key: np.asarray(scores[f"{split}/{key}"], dtype=np.float64) for key in names}
    uneven = [key for key, value in part.items() if len(value) != len(run)]
    if uneven:
        raise DataError(thing, f"has scores of different lengths ({split}/{uneven[0]})", _AGAIN)
    return {"run": run.astype(str), **part}


def _runs(run: NDArray[Any], time: Floats, use: NDArray[np.bool_]) -> list[tuple[str, NDArray[np.int64]]]:
    """Rows of each run in order of time; runs in order of their names."""
    rows = np.flatnonzero(use)
    names, which = np.unique(run[rows], return_inverse=True)
    order = np.lexsort((time[rows], which))
    cuts = np.flatnonzero(np.diff(which[order])) + 1
    return [(str(names[which[part[0]]]), rows[part]) for part in np.split(order, cuts) if len(part)]


def _mean(scores: Arrays, split: SplitName, cap: float, own: Floats) -> float:
    if "train/mean_rul" in scores:
        return float(scores["train/mean_rul"])
    other = np.asarray(scores.get(f"{'val' if split == 'test' else 'test'}/rul", own), dtype=np.float64)
    known = other[np.isfinite(other)]
    return float(np.minimum(known if known.size else own, cap).mean())

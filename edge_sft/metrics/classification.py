"""Confusion matrix, per-class numbers with exact intervals, PR and ROC: what a classifier got right and wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.checkpoint import Scores
from edge_sft.errors import BugError
from edge_sft.metrics.intervals import Interval, clopper_pearson, quantile_interval, resampled_confusions
from edge_sft.task import Task

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassRow:
    """One label's numbers; shares in [0, 1], ``precision`` and ``f1`` None where they are undefined."""

    label: str
    pictures: int
    recall: float | None
    recall_low: float
    recall_high: float
    precision: float | None
    f1: float | None


@dataclass(frozen=True)
class Evaluation:
    """How a classifier did on one split; ``confusion`` holds weights, rows true, columns predicted [K, K]."""

    pictures: int
    confusion: Floats
    rows: tuple[ClassRow, ...]
    accuracy: Interval
    balanced_accuracy: Interval
    macro_f1: Interval


def confusion_matrix(
    labels: NDArray[Any], predicted: NDArray[Any], n_labels: int, weights: NDArray[Any] | None = None
) -> Floats:
    """Return weighted counts, rows true, columns predicted, float64 [K, K]."""
    cells = np.asarray(labels, dtype=np.int64) * n_labels + np.asarray(predicted, dtype=np.int64)
    if cells.size and (cells.min() < 0 or cells.max() >= n_labels**2):
        raise BugError("confusion matrix", f"holds labels outside 0…{n_labels - 1}", "Please report it.")
    given = None if weights is None else np.asarray(weights, dtype=np.float64)
    return np.bincount(cells, given, minlength=n_labels**2).astype(np.float64).reshape(n_labels, n_labels)


def evaluate(scores: Scores, task: Task, *, replicates: int = 2000, seed: int = 0) -> Evaluation:
    """Evaluate the most probable label on one split; weights are honoured.

    Recall has exact (Clopper–Pearson) intervals, approximate where weights differ; accuracy too. Balanced
    accuracy (over the labels present) and macro F1 have seeded Bayesian bootstrap intervals within each class.

    Raises:
        BugError: The split is empty, or does not fit the task.
    """
    k = len(task.labels)
    if len(scores.labels) == 0 or scores.probabilities.shape != (len(scores.labels), k):
        raise BugError("scores", f"of shape {scores.probabilities.shape} for {k} labels", "Please report it.")
    predicted = scores.probabilities.argmax(axis=1)
    confusion = confusion_matrix(scores.labels, predicted, k, scores.weights)
    effective = _effective(scores, k)
    draws = resampled_confusions(confusion, effective, replicates=replicates, seed=seed)
    hit, total = float(np.trace(confusion)), float(confusion.sum())
    share = hit / total if total else 0.0
    n = _kish(scores.weights)
    return Evaluation(
        pictures=len(scores.labels),
        confusion=confusion,
        rows=_rows(scores, task, confusion, effective),
        accuracy=Interval(share, *clopper_pearson(_whole(share * n), n)),
        balanced_accuracy=quantile_interval(float(balanced_accuracy(confusion)), balanced_accuracy(draws)),
        macro_f1=quantile_interval(float(macro_f1(confusion)), macro_f1(draws)),
    )


def balanced_accuracy(confusion: Floats) -> Floats:
    """Return the mean recall over the labels that occur, of one matrix [K, K] or many [..., K, K]."""
    total = confusion.sum(axis=-1)
    seen = total > 0
    recall = np.diagonal(confusion, axis1=-2, axis2=-1) / np.where(seen, total, 1.0)
    return np.asarray((recall * seen).sum(axis=-1) / np.maximum(1, seen.sum(axis=-1)))


def macro_f1(confusion: Floats) -> Floats:
    """Return the mean F1 over the labels that occur or are predicted, of one matrix or many."""
    both = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    seen = both > 0
    f1 = 2 * np.diagonal(confusion, axis1=-2, axis2=-1) / np.where(seen, both, 1.0)
    return np.asarray((f1 * seen).sum(axis=-1) / np.maximum(1, seen.sum(axis=-1)))


def _rows(scores: Scores, task: Task, confusion: Floats, effective: Floats) -> tuple[ClassRow, ...]:
    found = []
    for index, label in enumerate(task.labels):
        hit, true, said = confusion[index, index], confusion[index].sum(), confusion[:, index].sum()
        recall = float(hit / true) if true else None
        n = float(effective[index])
        low, high = clopper_pearson(_whole((recall or 0.0) * n), n)
        found.append(
            ClassRow(
                label=label,
                pictures=int((scores.labels == index).sum()),
                recall=recall,
                recall_low=low,
                recall_high=high,
                precision=float(hit / said) if said else None,
                f1=float(2 * hit / (true + said)) if true + said else None,
            )
        )
    return tuple(found)


def _effective(scores: Scores, k: int) -> Floats:
    return np.array([_kish(scores.weights[scores.labels == index]) for index in range(k)])


def _kish(weights: NDArray[Any]) -> float:
    """Effective number of equally weighted pictures; the count itself where all weights are equal."""
    heavy = np.asarray(weights, dtype=np.float64)
    squares = float((heavy**2).sum())
    return _whole(float(heavy.sum()) ** 2 / squares) if squares else 0.0


def _whole(value: float) -> float:
    """Undo rounding: a count that is whole but for the last bits is made whole."""
    return float(round(value)) if abs(value - round(value)) < 1e-6 else value


@dataclass(frozen=True)
class Curve:
    """A curve over all thresholds, from the strictest to the most lenient, and the area under it."""

    x: Floats
    y: Floats
    thresholds: Floats
    area: float


def roc(positive: NDArray[Any], score: NDArray[Any], weights: NDArray[Any] | None = None) -> Curve | None:
    """Return the ROC curve (x = false positive rate, y = true positive rate); None without both kinds."""
    hits, alarms, thresholds = _cumulated(positive, score, weights)
    if not len(hits) or hits[-1] <= 0 or alarms[-1] <= 0:
        return None
    x, y = np.r_[0.0, alarms / alarms[-1]], np.r_[0.0, hits / hits[-1]]
    area = float(((x[1:] - x[:-1]) * (y[1:] + y[:-1])).sum() / 2)
    return Curve(x, y, np.r_[np.inf, thresholds], area)


def precision_recall(positive: NDArray[Any], score: NDArray[Any], weights: NDArray[Any] | None = None) -> Curve | None:
    """Return the PR curve (x = recall, y = precision); area = average precision; None without positives."""
    hits, alarms, thresholds = _cumulated(positive, score, weights)
    if not len(hits) or hits[-1] <= 0:
        return None
    recall, precision = hits / hits[-1], hits / np.maximum(hits + alarms, 1e-300)
    area = float((np.diff(np.r_[0.0, recall]) * precision).sum())
    return Curve(np.r_[0.0, recall], np.r_[precision[0], precision], np.r_[thresholds[0], thresholds], area)


def _cumulated(
    positive: NDArray[Any], score: NDArray[Any], weights: NDArray[Any] | None
) -> tuple[Floats, Floats, Floats]:
    heavy = np.ones(len(score)) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(-np.asarray(score, dtype=np.float64), kind="stable")
    value, good, heavy = np.asarray(score, dtype=np.float64)[order], np.asarray(positive, bool)[order], heavy[order]
    last = np.flatnonzero(np.r_[np.diff(value) != 0, True]) if len(value) else np.zeros(0, dtype=np.int64)
    return np.cumsum(heavy * good)[last], np.cumsum(heavy * ~good)[last], value[last]

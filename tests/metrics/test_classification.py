from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from edge_sft.checkpoint import Scores
from edge_sft.errors import BugError
from edge_sft.metrics.classification import confusion_matrix, evaluate, precision_recall, roc
from edge_sft.metrics.intervals import clopper_pearson
from edge_sft.task import Task


def random_scores(n: int, weights: bool, seed: int = 0) -> Scores:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n)
    logits = random.normal(0, 1, (n, 3))
    logits[np.arange(n), labels] += 1.2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    heavy = random.uniform(0.2, 3, n) if weights else np.ones(n)
    return Scores([str(i) for i in range(n)], labels, probabilities.astype(np.float32), heavy.astype(np.float32))


@pytest.mark.parametrize("weights", [False, True])
def test_equals_scikit_learn(task: Task, weights: bool) -> None:
    scores = random_scores(300, weights)
    result = evaluate(scores, task)
    predicted, heavy = scores.probabilities.argmax(axis=1), scores.weights.astype(np.float64)
    assert result.confusion == pytest.approx(sk.confusion_matrix(scores.labels, predicted, sample_weight=heavy))
    assert result.accuracy.value == pytest.approx(sk.accuracy_score(scores.labels, predicted, sample_weight=heavy))
    balanced = sk.balanced_accuracy_score(scores.labels, predicted, sample_weight=heavy)
    assert result.balanced_accuracy.value == pytest.approx(balanced)
    f1 = sk.f1_score(scores.labels, predicted, average="macro", sample_weight=heavy)
    assert result.macro_f1.value == pytest.approx(f1)
    per_class = sk.precision_recall_fscore_support(scores.labels, predicted, sample_weight=heavy)
    assert [row.precision for row in result.rows] == pytest.approx(per_class[0])
    assert [row.recall for row in result.rows] == pytest.approx(per_class[1])
    assert [row.f1 for row in result.rows] == pytest.approx(per_class[2])
    for interval in (result.accuracy, result.balanced_accuracy, result.macro_f1):
        assert 0 <= interval.low < interval.value < interval.high <= 1


def test_recall_has_exact_bounds_where_weights_are_equal(task: Task) -> None:
    scores = random_scores(200, weights=False)
    for index, row in enumerate(evaluate(scores, task).rows):
        hits = int((scores.probabilities.argmax(axis=1)[scores.labels == index] == index).sum())
        assert (row.recall_low, row.recall_high) == pytest.approx(clopper_pearson(hits, row.pictures))


def test_unequal_weights_widen_the_bounds(task: Task) -> None:
    equal, unequal = random_scores(300, weights=False), random_scores(300, weights=True)
    narrow, wide = (evaluate(item, task).accuracy for item in (equal, unequal))
    assert wide.high - wide.low > narrow.high - narrow.low


def test_labels_without_pictures_do_not_count(task: Task) -> None:
    scores = random_scores(50, weights=False)
    only = scores.labels != 2
    part = Scores(["x"] * int(only.sum()), scores.labels[only], scores.probabilities[only], scores.weights[only])
    result = evaluate(part, task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns about the label that is only predicted
        expected = sk.balanced_accuracy_score(part.labels, part.probabilities.argmax(axis=1))
    assert result.balanced_accuracy.value == pytest.approx(expected)
    assert result.rows[2].recall is None
    assert (result.rows[2].recall_low, result.rows[2].recall_high) == (0.0, 1.0)


def test_an_empty_split_is_a_bug(task: Task) -> None:
    empty = Scores([], np.zeros(0, np.int64), np.zeros((0, 3), np.float32), np.zeros(0, np.float32))
    with pytest.raises(BugError):
        evaluate(empty, task)
    with pytest.raises(BugError):
        confusion_matrix(np.array([3]), np.array([0]), 3)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("digits", [1, 6])
def test_curves_equal_scikit_learns(weights: bool, digits: int) -> None:
    scores = random_scores(400, weights, seed=digits)
    positive = scores.labels == 0
    value = np.round(scores.probabilities[:, 0], digits)  # one digit: many ties
    heavy = scores.weights.astype(np.float64)
    receiver, precision = roc(positive, value, heavy), precision_recall(positive, value, heavy)
    assert receiver is not None
    assert precision is not None
    assert receiver.area == pytest.approx(sk.roc_auc_score(positive, value, sample_weight=heavy))
    assert precision.area == pytest.approx(sk.average_precision_score(positive, value, sample_weight=heavy))
    assert (receiver.x[0], receiver.y[0], receiver.x[-1], receiver.y[-1]) == (0, 0, 1, 1)
    assert len(precision.x) == len(precision.y) == len(precision.thresholds)


def test_a_curve_needs_both_kinds() -> None:
    value = np.array([0.1, 0.9])
    assert roc(np.array([True, True]), value) is None
    assert roc(np.zeros(0, bool), np.zeros(0)) is None
    assert precision_recall(np.array([False, False]), value) is None
    assert precision_recall(np.array([True, True]), value) is not None

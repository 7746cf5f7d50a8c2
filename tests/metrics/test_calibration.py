from __future__ import annotations

import math

import numpy as np
import pytest

from edge_sft.errors import BugError
from edge_sft.metrics.calibration import TEMPERATURE_RANGE, calibration_error, fit_temperature, reliability


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the truth."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (n, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([random.choice(3, p=row) for row in probabilities])
    return logits, labels


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_recovers_the_temperature(factor: float) -> None:
    logits, labels = drawn(3000)
    assert fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.08)


def test_improves_the_calibration_error() -> None:
    logits, labels = drawn(3000)
    sure = logits * 3
    mended = sure / fit_temperature(sure, labels)
    assert calibration_error(softmax(mended), labels) < 0.3 * calibration_error(softmax(sure), labels)


@pytest.mark.parametrize("n", [1, 2, 10, 1000])
def test_separable_splits_stay_in_range(n: int) -> None:
    labels = np.arange(n) % 2
    logits = np.where(labels[:, None] == np.arange(2), 8.0, -8.0)
    low, high = TEMPERATURE_RANGE
    assert low < fit_temperature(logits, labels) < high
    assert low < fit_temperature(-logits, labels) <= high * 1.0001  # all wrong, and sure of it
    if n <= 10:
        assert fit_temperature(logits, labels) == pytest.approx(1.0, abs=0.05)


def test_an_empty_split_leaves_the_temperature_alone() -> None:
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1.0


def test_huge_logits_and_weights() -> None:
    logits, labels = drawn(200)
    assert math.isfinite(fit_temperature(logits * 1e4, labels))
    weights = np.zeros(200)
    assert fit_temperature(logits, labels, weights) == pytest.approx(fit_temperature(logits, labels))
    weights[:50] = 1
    assert fit_temperature(logits, labels, weights) != pytest.approx(fit_temperature(logits, labels), abs=1e-3)


def test_logits_that_are_not_finite_are_a_bug() -> None:
    with pytest.raises(BugError):
        fit_temperature(np.array([[np.nan, 1.0]]), np.array([0]))
    with pytest.raises(BugError):
        fit_temperature(np.array([1.0, 2.0]), np.array([0, 1]))


def test_reliability_bins_have_equal_numbers_and_bounds() -> None:
    logits, labels = drawn(1000)
    bins = reliability(softmax(logits), labels)
    assert [part.pictures for part in bins] == [100] * 10
    assert all(part.low <= part.accuracy <= part.high for part in bins)
    assert [part.confidence for part in bins] == sorted(part.confidence for part in bins)
    assert len(reliability(softmax(logits[:12]), labels[:12])) == 2
    assert len(reliability(softmax(logits[:1]), labels[:1])) == 1
    assert reliability(np.zeros((0, 3)), np.zeros(0, int)) == ()
    assert math.isnan(calibration_error(np.zeros((0, 3)), np.zeros(0, int)))

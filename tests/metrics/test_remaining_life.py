from __future__ import annotations

import math

import numpy as np
import pytest

from edge_sft.metrics.remaining_life import coverage, nasa_score, rmse


def test_being_late_costs_more_than_being_early():
    truth = np.array([50.0])
    assert nasa_score(np.array([60.0]), truth) == pytest.approx(math.e - 1)
    assert nasa_score(np.array([37.0]), truth) == pytest.approx(math.e - 1)
    assert nasa_score(truth, truth) == 0


def test_error_and_coverage():
    assert rmse(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == pytest.approx(math.sqrt(2))
    assert coverage(np.array([0.0, 3.0]), np.array([2.0, 4.0]), np.array([2.0, 5.0])) == 0.5
    assert math.isnan(rmse(np.array([]), np.array([])))
    assert math.isnan(coverage(np.array([]), np.array([]), np.array([])))

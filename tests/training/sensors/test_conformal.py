from __future__ import annotations

import numpy as np
import pytest

from edge_sft.training.sensors.conformal import KNOTS, offsets

CAP = 100.0


def said(seed: int, groups: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Machines whose errors hang together, and are larger far from failure."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, CAP, (groups, rows))
    off = rng.normal(size=(groups, 1)) * 0.7 + rng.normal(size=(groups, rows)) * 0.7
    value = truth + off * (2 + truth / 10)
    return value.clip(0, CAP).ravel(), truth.ravel(), np.repeat(np.arange(groups), rows)


def covered(found: np.ndarray, value: np.ndarray, truth: np.ndarray) -> np.ndarray:
    knots = np.linspace(0, CAP, KNOTS)
    low, high = (value + np.interp(value, knots, row) for row in found)
    return (low <= truth) & (truth <= high)


@pytest.mark.parametrize(("groups", "most"), [(10, 0.99), (40, 0.96), (100, 0.94)])  # few machines: rather too wide
def test_machines_never_seen_are_covered_as_promised(groups: int, most: float):
    shares = []
    for seed in range(10):
        found = offsets(*said(seed, groups), levels=(0.05, 0.95), cap=CAP)
        value, truth, _ = said(1000 + seed, 200)
        shares.append(covered(found, value, truth).mean())
    assert 0.87 <= np.mean(shares) <= most


def test_it_is_narrower_where_the_estimate_is_surer():
    found = offsets(*said(0, 100), levels=(0.05, 0.95), cap=CAP)
    width = found[1] - found[0]
    assert width[0] < 0.6 * width[KNOTS // 2]


def test_an_interval_holds_its_estimate_and_more_levels_nest():
    found = offsets(*said(0, 5), levels=(0.05, 0.25, 0.75, 0.95), cap=CAP)
    assert (found[0] <= found[1]).all()
    assert (found[1] <= 0).all()
    assert (found[2] >= 0).all()
    assert (found[2] <= found[3]).all()


def test_where_nothing_was_estimated_it_is_as_wide_as_anywhere():
    value = np.full(50, 90.0)
    found = offsets(value, np.linspace(80, 100, 50), np.repeat(np.arange(10), 5), (0.05, 0.95), CAP)
    assert np.isfinite(found).all()
    assert found[0, 0] < 0 < found[1, 0]

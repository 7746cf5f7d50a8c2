from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from edge_sft.errors import BugError
from edge_sft.metrics.intervals import (
    clopper_pearson,
    mcnemar_exact,
    paired_flips,
    quantile_interval,
    resampled_confusions,
    upper_bound,
)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 40), (1, 40), (20, 40), (40, 40), (3, 2995)])
def test_clopper_pearson_equals_scipys(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_observed_says_nothing() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert upper_bound(0, 0) == 1.0


@pytest.mark.parametrize(("k", "n", "confidence"), [(-1, 3, 0.95), (4, 3, 0.95), (1, 3, 1.0)])
def test_nonsense_is_a_bug(k: int, n: int, confidence: float) -> None:
    with pytest.raises(BugError):
        clopper_pearson(k, n, confidence)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_coverage_is_at_least_what_is_promised(share: float) -> None:
    n = 30
    covered = sum(
        binom.pmf(k, n, share) for k in range(n + 1) if clopper_pearson(k, n)[0] <= share <= clopper_pearson(k, n)[1]
    )
    assert covered >= 0.95


def test_flips_are_counted_both_ways() -> None:
    labels = np.zeros(200, dtype=int)
    before, after = labels.copy(), labels.copy()
    after[:5] = 1  # right → wrong
    before[10:12] = 1  # wrong → right
    flips = paired_flips(labels, before, after)
    assert (flips.pictures, flips.right_to_wrong, flips.wrong_to_right) == (200, 5, 2)
    assert flips.net_points == pytest.approx(-1.5)
    assert flips.net_loss_points == pytest.approx(1.5)
    assert (flips.right_to_wrong_low, flips.right_to_wrong_high) == clopper_pearson(5, 200)
    assert flips.low < flips.net_points < flips.high
    assert flips.p_value == pytest.approx(binomtest(5, 7, 0.5).pvalue)


def test_no_pictures_and_no_flips() -> None:
    empty = np.zeros(0, dtype=int)
    flips = paired_flips(empty, empty, empty)
    assert (flips.net_points, flips.net_loss_points, flips.p_value) == (0.0, 0.0, 1.0)
    assert str(flips.net_loss_points) == "0.0"
    assert (flips.low, flips.high) == (-100.0, 100.0)
    assert mcnemar_exact(0, 0) == 1.0


def test_flips_of_different_lengths_are_a_bug() -> None:
    with pytest.raises(BugError):
        paired_flips(np.zeros(3), np.zeros(2), np.zeros(3))


def test_the_net_interval_covers() -> None:
    random = np.random.default_rng(0)
    lost, won, n, inside = 0.03, 0.01, 150, 0
    for _ in range(300):
        kind = random.choice(3, n, p=[1 - lost - won, lost, won])
        labels = np.zeros(n, dtype=int)
        flips = paired_flips(labels, (kind == 2).astype(int), (kind == 1).astype(int))
        inside += flips.low <= 100 * (won - lost) <= flips.high
    assert inside >= 0.95 * 300


def test_resampling_is_seeded_and_admits_that_five_of_five_is_not_certainty() -> None:
    confusion = np.diag([5.0, 5.0])
    draws = resampled_confusions(confusion, np.array([5.0, 5.0]), replicates=2000, seed=1)
    again = resampled_confusions(confusion, np.array([5.0, 5.0]), replicates=2000, seed=1)
    assert (draws == again).all()
    assert draws.sum(axis=2) == pytest.approx(5.0)
    interval = quantile_interval(1.0, draws[:, 0, 0] / 5)
    assert interval.high == 1.0
    assert 0.5 < interval.low < 0.8


def test_an_absent_class_stays_absent() -> None:
    confusion = np.array([[4.0, 1.0], [0.0, 0.0]])
    draws = resampled_confusions(confusion, np.array([5.0, 0.0]), replicates=10, seed=0)
    assert (draws[:, 1] == 0).all()

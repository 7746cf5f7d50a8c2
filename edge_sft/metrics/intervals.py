"""Intervals whose coverage can be relied on, and paired comparisons of two models on the same pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import BugError


def clopper_pearson(k: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval of a share, k of n.

    Coverage is at least ``confidence`` for whole counts; effective counts of weighted samples need not be whole
    and make it approximate. Nothing observed (n = 0) says nothing: (0, 1).

    Raises:
        BugError: Not 0 ≤ k ≤ n, or a confidence outside (0, 1).
    """
    _check(k, n, confidence)
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return low, high


def upper_bound(k: float, n: float, confidence: float = 0.95) -> float:
    """Return the exact one-sided upper bound of a share: "at most this, with 95 % confidence"."""
    return clopper_pearson(k, n, 2 * confidence - 1)[1]


def _check(k: float, n: float, confidence: float) -> None:
    if not 0 <= k <= n or not 0 < confidence < 1:
        raise BugError("interval", f"k={k}, n={n}, confidence={confidence} make no sense", "Please report it.")


@dataclass(frozen=True)
class PairedFlips:
    """Two models on the same pictures: which decisions turned.

    Attributes:
        pictures: How many were compared.
        right_to_wrong: Right before, wrong after.
        wrong_to_right: Wrong before, right after.
        right_to_wrong_low: Exact lower bound of the share of right→wrong, in [0, 1].
        right_to_wrong_high: Exact upper bound of that share.
        wrong_to_right_low: The same for wrong→right.
        wrong_to_right_high: The same for wrong→right.
        low: Lower bound of the net change in percentage points. Both shares' intervals at half the error each
            (Bonferroni), so the coverage is at least the confidence asked for, at any number of pictures.
        high: Upper bound of the net change.
        p_value: Exact McNemar test of "both flips are equally likely".
    """

    pictures: int
    right_to_wrong: int
    wrong_to_right: int
    right_to_wrong_low: float
    right_to_wrong_high: float
    wrong_to_right_low: float
    wrong_to_right_high: float
    low: float
    high: float
    p_value: float

    @property
    def net_points(self) -> float:
        """Accuracy after minus before, in percentage points; negative is a loss."""
        return 100.0 * (self.wrong_to_right - self.right_to_wrong) / max(1, self.pictures)

    @property
    def net_loss_points(self) -> float:
        """What was lost, in percentage points: `net_points` with the sign turned (0, never −0)."""
        return 0.0 - self.net_points


def paired_flips(
    labels: NDArray[Any], before: NDArray[Any], after: NDArray[Any], confidence: float = 0.95
) -> PairedFlips:
    """Compare two models' predicted labels on the same pictures.

    Args:
        labels: True label indices [N].
        before: Predicted label indices of the reference [N].
        after: Predicted label indices of the variant [N].
        confidence: Coverage of every interval.

    Raises:
        BugError: The three differ in length.
    """
    labels, before, after = np.asarray(labels), np.asarray(before), np.asarray(after)
    if not labels.shape == before.shape == after.shape or labels.ndim != 1:
        raise BugError("paired flips", f"shapes {labels.shape}, {before.shape}, {after.shape}", "Please report it.")
    was, now = before == labels, after == labels
    n = int(labels.size)
    lost, won = int((was & ~now).sum()), int((~was & now).sum())
    half = 1 - (1 - confidence) / 2
    lost_half, won_half = clopper_pearson(lost, n, half), clopper_pearson(won, n, half)
    return PairedFlips(
        n,
        lost,
        won,
        *clopper_pearson(lost, n, confidence),
        *clopper_pearson(won, n, confidence),
        low=100 * (won_half[0] - lost_half[1]),
        high=100 * (won_half[1] - lost_half[0]),
        p_value=mcnemar_exact(lost, won),
    )


def mcnemar_exact(right_to_wrong: int, wrong_to_right: int) -> float:
    """Return the exact two-sided p-value of "a flip goes either way with equal chance"; 1 without flips."""
    flips = right_to_wrong + wrong_to_right
    if flips == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(right_to_wrong, flips, 0.5).pvalue)


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


def resampled_confusions(
    confusion: NDArray[np.float64], effective: NDArray[np.float64], *, replicates: int, seed: int
) -> NDArray[np.float64]:
    """Draw what the confusion matrix could have been: a Bayesian bootstrap within each true class.

    Each row is drawn from a Dirichlet of its cells plus half a picture (Jeffreys) on the right cell and half a
    picture over the wrong ones: unlike a plain bootstrap, five out of five right does not yield [100 %, 100 %].

    Args:
        confusion: Weighted counts, rows true, columns predicted [K, K].
        effective: Effective number of pictures of each row (Kish) [K].
        replicates: How many matrices to draw.
        seed: Equal seeds give equal draws.

    Returns:
        float64 [replicates, K, K]; rows keep their total weight.
    """
    k = len(confusion)
    random = np.random.default_rng(seed)
    out = np.zeros((replicates, k, k))
    for row in range(k):
        total = confusion[row].sum()
        if total <= 0:
            continue
        prior = np.full(k, 0.5 / max(1, k - 1))
        prior[row] = 0.5
        out[:, row] = total * random.dirichlet(confusion[row] / total * effective[row] + prior, size=replicates)
    return out


def quantile_interval(value: float, draws: NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Return the equal-tailed interval of draws, stretched to hold the value itself."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, min(float(low), value), max(float(high), value))

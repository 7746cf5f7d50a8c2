"""What mistakes cost at every threshold, smoothed so that a handful of defects does not decide on a hair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_GRID = 1001
_EDGE = 1e-6  # scores are read in log odds; float32 softmax saturates about here
# Least blur, in log odds: two pictures of one part differ by more than this.
_LEAST_BLUR = 0.35


@dataclass(frozen=True)
class Costs:
    """What one mistake costs and how often a defect comes along the line (share in (0, 1))."""

    escape: float
    overkill: float
    prevalence: float

    def per_part(self, escape_rate: Any, overkill_rate: Any) -> Any:
        """Return the expected cost of one part on the line."""
        return self.prevalence * self.escape * escape_rate + (1 - self.prevalence) * self.overkill * overkill_rate


@dataclass(frozen=True)
class CostCurve:
    """Rates and expected cost per part over thresholds in rising order; smoothed rates are what is minimised.

    Attributes:
        thresholds: Thresholds in [0, 1] [G].
        escape_rate: Smoothed share of defects below the threshold [G].
        overkill_rate: Smoothed share of good parts at or above it [G].
        cost: Expected cost of one part, from the smoothed rates [G].
        observed_cost: The same from the counts as they are [G].
    """

    thresholds: Floats
    escape_rate: Floats
    overkill_rate: Floats
    cost: Floats
    observed_cost: Floats


def cost_curve(score: NDArray[Any], defect: NDArray[Any], weights: NDArray[Any], costs: Costs) -> CostCurve:
    """Compute the cost of every threshold from one split.

    Each picture counts not as one score but as a bell around it in log odds: the same part, photographed
    again, would score a little differently. Its width follows Silverman's rule for the spread and number of
    the defects' and of the good parts' scores.

    Args:
        score: Evidence for a defect [N] in [0, 1].
        defect: Which are defects, bool [N]; at least one of each kind.
        weights: Sample weights [N].
        costs: What mistakes cost.
    """
    odds = log_odds(score)
    grid = np.linspace(odds.min() - 1.0, odds.max() + 1.0, _GRID)
    thresholds = 1 / (1 + np.exp(-grid))
    heavy = np.asarray(weights, dtype=np.float64)
    escape = _below(grid, odds[defect], heavy[defect], blur=True)
    overkill = 1 - _below(grid, odds[~defect], heavy[~defect], blur=True)
    seen = costs.per_part(
        _below(grid, odds[defect], heavy[defect], blur=False),
        1 - _below(grid, odds[~defect], heavy[~defect], blur=False),
    )
    return CostCurve(thresholds, escape, overkill, costs.per_part(escape, overkill), seen)


def cheapest(curve: CostCurve, resolution: float) -> int:
    """Return the index of the middle of the valley: the stretch around the least cost within ``resolution``."""
    best = int(curve.cost.argmin())
    low_enough = curve.cost <= curve.cost[best] + resolution
    first = best - int(np.argmin(np.r_[low_enough[best::-1], False])) + 1
    last = best + int(np.argmin(np.r_[low_enough[best:], False])) - 1
    return (first + last) // 2


def log_odds(score: NDArray[Any]) -> Floats:
    """Return log(p / (1 − p)) of scores, kept finite at 0 and 1."""
    inside = np.clip(np.asarray(score, dtype=np.float64), _EDGE, 1 - _EDGE)
    return np.asarray(np.log(inside / (1 - inside)))


def _below(grid: Floats, odds: Floats, weights: Floats, *, blur: bool) -> Floats:
    """Weighted share of ``odds`` below each grid point, each blurred by a bell (or not)."""
    total = weights.sum()
    if total <= 0:
        weights, total = np.ones(len(odds)), float(len(odds))
    order = np.argsort(odds, kind="stable")
    cumulated = np.r_[0.0, np.cumsum(weights[order])] / total
    if not blur:
        return np.asarray(cumulated[np.searchsorted(odds[order], grid, side="left")])
    width = _silverman(odds)
    # The empirical distribution on a grid four bells wider, then one convolution: 10 million scores cost no more.
    step = grid[1] - grid[0]
    pad = int(np.ceil(4 * width / step))
    wide = grid[0] + step * np.arange(-pad, len(grid) + pad)
    steps = cumulated[np.searchsorted(odds[order], wide, side="left")]
    bell = np.exp(-0.5 * (step * np.arange(-pad, pad + 1) / width) ** 2)
    return np.convolve(steps, bell / bell.sum(), mode="valid")


def _silverman(odds: Floats) -> float:
    if len(odds) < 2:
        return 1.0
    q1, q3 = np.percentile(odds, [25, 75])
    spread = min(float(odds.std(ddof=1)), float(q3 - q1) / 1.34) or float(odds.std(ddof=1))
    return max(_LEAST_BLUR, float(0.9 * spread * len(odds) ** -0.2))

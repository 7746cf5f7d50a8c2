"""Numbers for remaining useful life: error, NASA's score, coverage. numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating]


def rmse(value: Numbers, truth: Numbers) -> float:
    """Return the root mean square error; NaN without values."""
    return float(np.sqrt(np.mean((np.asarray(value, np.float64) - truth) ** 2))) if len(value) else float("nan")


def nasa_score(value: Numbers, truth: Numbers) -> float:
    """Return NASA's PHM08 score: Σ exp(d/10) − 1 for late, Σ exp(−d/13) − 1 for early estimates (d = value − truth)."""
    off = np.asarray(value, np.float64) - truth
    return float(np.where(off < 0, np.expm1(-off / 13), np.expm1(off / 10)).sum())


def coverage(low: Numbers, high: Numbers, truth: Numbers) -> float:
    """Return the share of truths inside [low, high]."""
    return float(np.mean((low <= truth + 1e-6) & (truth <= high + 1e-6))) if len(truth) else float("nan")

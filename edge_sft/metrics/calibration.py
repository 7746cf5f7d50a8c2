"""Are 90 % really 90 %? Reliability, calibration error, and the temperature that mends both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import BugError
from edge_sft.metrics.intervals import clopper_pearson

TEMPERATURE_RANGE = (0.2, 5.0)
# A temperature is believed to be within a factor of 1.65 of 1 until the validation pictures say otherwise. On a
# separable split the likelihood alone runs to 0; this keeps it where the evidence ends.
_PRIOR_SD = 0.5


@dataclass(frozen=True)
class ReliabilityBin:
    """Pictures of similar confidence: how sure the model was and how often it was right, with exact bounds."""

    confidence: float
    accuracy: float
    low: float
    high: float
    pictures: int


def reliability(
    probabilities: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None = None, *, bins: int = 10
) -> tuple[ReliabilityBin, ...]:
    """Cut pictures into bins of equal number by confidence, fewer where there are under 5 a bin.

    Args:
        probabilities: [N, K].
        labels: True label indices [N].
        weights: Sample weights [N] or None.
        bins: At most so many.
    """
    n = len(labels)
    if n == 0:
        return ()
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    heavy = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    found = []
    for part in np.array_split(np.argsort(confidence, kind="stable"), min(bins, max(1, n // 5))):
        total = heavy[part].sum()
        if total <= 0:
            continue
        low, high = clopper_pearson(int(right[part].sum()), len(part))
        mean = float((confidence[part] * heavy[part]).sum() / total)
        share = float((right[part] * heavy[part]).sum() / total)
        found.append(ReliabilityBin(mean, share, low, high, len(part)))
    return tuple(found)


def calibration_error(
    probabilities: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None = None, *, bins: int = 10
) -> float:
    """Return the expected calibration error over bins of equal number, in [0, 1]; NaN for no pictures."""
    parts = reliability(probabilities, labels, weights, bins=bins)
    total = sum(part.pictures for part in parts)
    if not total:
        return float("nan")
    return sum(part.pictures / total * abs(part.accuracy - part.confidence) for part in parts)


def fit_temperature(logits: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None = None) -> float:
    """Return T so that softmax(logits / T) says what it means, from the validation split.

    Least weighted negative log-likelihood with a weak pull towards 1, within `TEMPERATURE_RANGE`; so an empty,
    tiny or perfectly separated split yields a usable number near 1.

    Args:
        logits: [N, K].
        labels: True label indices [N].
        weights: Sample weights [N] or None; scaled to a mean of 1.

    Raises:
        BugError: Logits that are not finite or not [N, K].
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or len(values) != len(labels) or not np.isfinite(values).all():
        raise BugError("logits", f"of shape {values.shape} are not usable for a temperature", "Please report it.")
    if len(values) == 0:
        return 1.0
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    heavy = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    heavy = heavy / heavy.mean() if heavy.sum() > 0 else np.ones(len(values))
    chosen = values[np.arange(len(values)), np.asarray(labels, dtype=np.int64)]

    def loss(log_t: float) -> float:
        scale = np.exp(-log_t)
        nll = logsumexp(values * scale, axis=1) - chosen * scale
        return float((heavy * nll).sum()) + (log_t / _PRIOR_SD) ** 2 / 2

    low, high = np.log(TEMPERATURE_RANGE)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))

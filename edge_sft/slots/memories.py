"""What an anomaly model remembers of a machine's healthy run: the graph's ``bank`` input, made of its ``features``.

All layouts begin with the features' centre and what they are multiplied with; see `edge_sft.models.sensors.bank`
and `.t2q` for what the graph does with the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import BugError
from edge_sft.policy import CommissioningRule

Floats = NDArray[np.float64]
# A feature that did not move at all in the healthy run still gets this much room, in the channel's own deviations.
_LEAST_DEVIATION = 0.05
# Rows without an example lie out of reach: further than any clipped feature is from any example, and its square
# still fits half precision.
_FAR = 150.0
# Features that move together are taken apart as far as their correlations can be believed, drawn this much to none:
# what is unusual is a temperature that does not follow the load. On Tennessee Eastman's training rows .764 → .777 of
# faulty rows are found at the same false alarms; .1 to .6 do not differ.
_SHRINKAGE = 0.3
_VARIANCE_KEPT = 0.9
# The core-set is picked out of so many windows, along so many random directions: 512 of them take a tenth of a second,
# and commissioning makes a memory for each of its stretches.
_CANDIDATES = 4096
_DIRECTIONS = 64
# T² and Q are measured against this quantile of the healthy windows' own, so that neither drowns the other.
_LIMIT_QUANTILE = 0.99


def remember(features: Floats, rows: int, rule: CommissioningRule) -> NDArray[np.float32]:
    """Make the ``bank`` input.

    Args:
        features: float64 [n, D] of healthy windows, in order of time.
        rows: How many rows the graph's input has.
        rule: Which method, and the clip.

    Returns:
        float32 [rows, D], always finite.

    Raises:
        BugError: The input's rows do not fit the method.
    """
    centre = features.mean(axis=0)
    scale = 1.0 / np.maximum(features.std(axis=0), _LEAST_DEVIATION)
    standard = np.clip((features - centre) * scale, -rule.clip, rule.clip)
    body = _MAKERS[rule.method](standard, rows - 2)
    return np.vstack([centre, scale, body]).astype(np.float32)


def _examples(standard: Floats, rows: int) -> Floats:
    """The matrix that takes features apart, then what examples fit, evenly over the run, so that how often a state
    occurred stays visible.
    """
    size = standard.shape[1]
    room = rows - size
    if room < 1:
        raise BugError("bank", "has no room for examples", "Please report it.")
    apart = _decorrelation(standard)
    picked = (standard @ apart)[spread(len(standard), room)]
    return np.vstack([apart, picked, np.full((room - len(picked), size), _FAR)])


def _core_set(standard: Floats, rows: int) -> Floats:
    """The same matrix, then the examples that leave no window of the run far from all of them (greedy k-centre): what
    happened once is kept however much of the run is alike.
    """
    size = standard.shape[1]
    room = rows - size
    if room < 1:
        raise BugError("bank", "has no room for examples", "Please report it.")
    apart = _decorrelation(standard)
    treated = (standard @ apart)[spread(len(standard), max(_CANDIDATES, room))]
    picked = treated[_farthest_first(_narrowed(treated), room)]
    return np.vstack([apart, picked, np.full((room - len(picked), size), _FAR)])


def _farthest_first(points: Floats, most: int) -> NDArray[np.int64]:
    """Return indices, in order of time: the point nearest the middle, then always the one farthest from all so far."""
    if len(points) <= most:
        return np.arange(len(points))
    lengths = (points * points).sum(axis=1)
    middle = points.mean(axis=0)
    picked = [int((lengths - 2 * points @ middle).argmin())]
    left = np.full(len(points), np.inf)
    while len(picked) < most:
        last = picked[-1]
        left = np.minimum(left, lengths + lengths[last] - 2 * points @ points[last])
        left[last] = 0.0
        picked.append(int(left.argmax()))
    return np.sort(np.array(picked, dtype=np.int64))


def _narrowed(points: Floats) -> Floats:
    """Project onto a few fixed random directions: distances stay as they are by a tenth or two, and cost a fraction."""
    if points.shape[1] <= _DIRECTIONS:
        return points
    directions = np.random.default_rng(0).standard_normal((points.shape[1], _DIRECTIONS))
    return np.asarray(points @ directions / np.sqrt(_DIRECTIONS))


def _decorrelation(standard: Floats) -> Floats:
    """Inverse root of the shrunk correlations: symmetric, so that a feature stays recognisable as itself."""
    correlations = (1 - _SHRINKAGE) * (standard.T @ standard) / len(standard)
    np.fill_diagonal(correlations, 1.0)
    values, vectors = np.linalg.eigh(correlations)
    return np.asarray((vectors / np.sqrt(np.maximum(values, 1e-3))) @ vectors.T)


def _components(standard: Floats, rows: int) -> Floats:
    """Principal components that keep 90 % of the variance: rows for T², then rows for Q, both against their limits."""
    size = standard.shape[1]
    if rows != 2 * size:
        raise BugError("bank", f"has {rows} rows for {size} components", "Please report it.")
    values, vectors = np.linalg.eigh(np.cov(standard.T).reshape(size, size))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    share = np.cumsum(values) / max(values.sum(), 1e-12)
    kept = int(np.searchsorted(share, _VARIANCE_KEPT)) + 1
    inside = np.zeros((size, size))
    inside[:kept] = (vectors[:, :kept] / np.sqrt(np.maximum(values[:kept], 1e-6))).T
    outside = np.eye(size) - vectors[:, :kept] @ vectors[:, :kept].T
    return np.vstack([_against_limit(standard, inside), _against_limit(standard, outside)])


def _against_limit(standard: Floats, projection: Floats) -> Floats:
    squares = ((standard @ projection.T) ** 2).sum(axis=1)
    limit = max(float(np.quantile(squares, _LIMIT_QUANTILE)), 1e-6)
    return np.asarray(projection / np.sqrt(limit))


def spread(count: int, most: int) -> NDArray[np.int64]:
    """Return at most ``most`` indices of ``count`` things, evenly over them, both ends included."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(np.int64))


_MAKERS: dict[str, Callable[[Floats, int], Floats]] = {
    "neighbours": _examples,
    "core-set": _core_set,
    "components": _components,
}


def rows_for(method: str, features: int, size: int) -> int:
    """Return how many rows the bank of a method has: ``size`` examples, or components of as many features."""
    return 2 + features + (features if method == "components" else size)

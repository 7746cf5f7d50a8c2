"""Telling two pictures of one thing from pictures of two alike things: what both have beyond what their kind has.

Parts under a fixed camera agree in outline, edges and shading, and that is no evidence. So the fine detail common to
the most alike other pictures (their mean, its shifts, what they vary in most) is taken from both, then what runs along
rows and columns (grids, stripes, an edge a little off). A picture saved again still agrees in the rest, its very noise,
all over; parts that are merely alike do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.looking import DETAIL_SIDE

_WHOLE, _WHOLE_KIND = 0.18, 0.42  # cosine of what is left of both; more where all are alike anyway
_REGION, _REGION_KIND = 0.03, 0.44  # the same of the weaker regions: one common spot is no common picture
_WEAK = 0.2  # of the regions may agree less
_FEW, _UNKNOWN = 6, 1.2  # others; with fewer the kind counts as more than equal
_VARIATIONS = 4
_STRIPS = 6  # rows and columns are evened out within so many
_REGIONS = 6
_CLIP = 3.0  # medians: no single edge may decide

_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Resemblance:
    """Cosines: what two share beyond their kind, altogether and in the weaker regions, and how alike the kind is."""

    whole: float
    regions: float
    kind: float

    @property
    def same(self) -> bool:
        """Whether the two show one thing."""
        kind = max(0.0, self.kind)
        return self.whole >= _WHOLE + _WHOLE_KIND * kind and self.regions >= _REGION + _REGION_KIND * kind


def resemblance(first: bytes, second: bytes, others: Sequence[bytes]) -> Resemblance:
    """Compare two pictures' detail (`PictureFacts.detail`) before the background of the others most like them."""
    details = np.stack([np.frombuffer(one, dtype=np.int8) for one in (first, second, *others)]).astype(np.float32)
    known = len(others) >= _FEW
    rest = _evened(_without(details, details[2:])[:2] if known else details[:2])
    whole = float(_cosines(rest[:1], rest[1:])[0, 0])
    if not known:  # nothing tells what is common: the plain detail must agree far more
        return Resemblance(whole, _in_regions(rest), _UNKNOWN)
    return Resemblance(whole, _in_regions(rest), float(np.median(_cosines(details[:2], details[2:]))))


def _cosines(some: _Floats, others: _Floats) -> _Floats:
    norms = np.linalg.norm(some, axis=1)[:, None] * np.linalg.norm(others, axis=1)
    return np.asarray((some @ others.T) / np.maximum(norms, 1e-6), dtype=np.float32)


def _without(details: _Floats, others: _Floats) -> _Floats:
    """Take away what the others have in common: mean, its shifts, main variations."""
    mean = others.mean(axis=0)
    down, right = np.gradient(mean.reshape(DETAIL_SIDE, DETAIL_SIDE))
    varied = others - mean
    _, directions = np.linalg.eigh((varied @ varied.T).astype(np.float64))
    main = directions[:, : -_VARIATIONS - 1 : -1].T.astype(np.float32) @ varied
    common = np.concatenate([mean[None], down.reshape(1, -1), right.reshape(1, -1), main]).astype(np.float64)
    basis = common / np.maximum(np.linalg.norm(common, axis=1, keepdims=True), 1e-6)
    gram = basis @ basis.T + 1e-6 * np.eye(len(basis))
    weights = np.linalg.solve(gram, basis @ details.T.astype(np.float64))
    return np.asarray(details - (weights.T @ basis), dtype=np.float32)


def _evened(details: _Floats) -> _Floats:
    """Take away what runs along rows and columns, and cut peaks."""
    length = DETAIL_SIDE // _STRIPS
    strips = details.reshape(-1, _STRIPS, length, _STRIPS, length)
    strips = strips - strips.mean(axis=2, keepdims=True)
    strips = strips - strips.mean(axis=4, keepdims=True)
    rest = strips.reshape(len(details), -1)
    most = _CLIP * np.median(np.abs(rest), axis=1, keepdims=True)
    return np.asarray(np.clip(rest, -most, most), dtype=np.float32)


def _in_regions(rest: _Floats) -> float:
    """Return the cosine that all but the weakest regions of the first two reach."""
    length = DETAIL_SIDE // _REGIONS
    first, second = rest[:2].reshape(2, _REGIONS, length, _REGIONS, length)
    norms = np.sqrt((first**2).sum(axis=(1, 3)) * (second**2).sum(axis=(1, 3)))
    return float(np.quantile((first * second).sum(axis=(1, 3)) / np.maximum(norms, 1e-6), _WEAK))

"""Finding pictures that are nearly the same, without mistaking a line's look-alike parts for one another.

Two pictures are near-duplicates when (1) their 32 x 32 thumbnails, freed from exposure and gain, hardly differ, (2)
the fine detail left after taking away a blurred copy agrees too, (3) they are far nearer to one another than pictures
of this data set usually are, and (4) at 96 x 96 pixels they share more than parts of their kind do
(`edge_sft.data.resembling`). (1) alone joins unlike pictures with the same shading, (1) to (3) the solar cells of one
module. No cluster may grow beyond a small share of the data: joining too much would ruin the split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.looking import THUMBNAIL_SIDE
from edge_sft.data.resembling import resemblance

_DISTANCE = 0.03  # 1 - cosine of the thumbnails; different steel surfaces get below 0.02, none with agreeing detail
_EQUAL = 1e-9  # copies of one picture, however alike all pictures are
_DETAIL = 0.85  # cosine of what a 5 x 5 blur takes away
_RARE = 0.25  # of the distance to the nearest 5 % of the other pictures
_RARE_SHARE, _RARE_LEAST = 0.05, 12  # parts are shot up to a dozen times; that must not count as usual
_SAMPLE = 1024  # others that tell what is usual
_COARSE_DISTANCE = 0.05  # of 8 x 8 thumbnails, which only choose the candidates
_NEIGHBOURS = 16  # candidates a picture, the nearest ones
_VERIFIED = 6  # of these so many a picture are looked at closely (2 ms each); copies of copies join through others
_BLOCK = 512
_CLUSTER_SHARE, _CLUSTER_LEAST = 0.05, 24
_SHOTS = 4  # the most alike others, passed over: they may be further shots of the same part
_OTHERS = 12  # next after them, that show what is common

_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """Two pictures that are nearly the same, by index, first < second; ``distance`` 0 is equal."""

    first: int
    second: int
    distance: float


def near_pairs(thumbnails: Sequence[bytes], details: Sequence[bytes]) -> list[Pair]:
    """Find near-duplicates among pictures.

    Args:
        thumbnails: One a picture, as `PictureFacts.thumbnail`; empty ones are never near anything.
        details: One a picture, as `PictureFacts.detail`.

    Returns:
        Pairs in order of distance. Time grows with the square of the number (20,000 pictures: seconds), memory
        linearly.
    """
    known = [index for index, thumbnail in enumerate(thumbnails) if thumbnail]
    if len(known) < 2:
        return []
    side = THUMBNAIL_SIDE
    small = np.stack([np.frombuffer(thumbnails[index], dtype=np.uint8) for index in known])
    fine = small.astype(np.float32) - 128.0
    coarse = fine.reshape(-1, side // 4, 4, side // 4, 4).sum(axis=(2, 4)).reshape(len(known), -1)
    usual_fine, usual_coarse = _usual(fine), _usual(coarse)
    found: dict[tuple[int, int], float] = {}
    for rows, columns in _candidates(_unit(coarse), usual_coarse):
        distances = 1.0 - _cosines(fine, rows, columns)
        limit = np.minimum(_DISTANCE, _RARE * np.minimum(usual_fine[rows], usual_fine[columns]))
        near = np.flatnonzero((distances < limit) | (distances < _EQUAL))
        agree = near[_cosines(fine, rows[near], columns[near], detail=True) > _DETAIL]
        for i, j, distance in zip(rows[agree], columns[agree], distances[agree], strict=True):
            found[min(int(i), int(j)), max(int(i), int(j))] = float(distance)
    same = _verified(fine, [details[index] for index in known], _nearest_few(found))
    pairs = [Pair(known[i], known[j], found[i, j]) for i, j in same]
    pairs.sort(key=lambda pair: (round(pair.distance, 9), pair.first, pair.second))
    return _bounded(pairs, max(_CLUSTER_LEAST, int(_CLUSTER_SHARE * len(thumbnails))))


def _nearest_few(found: dict[tuple[int, int], float]) -> list[tuple[int, int]]:
    """Return the pairs that are among the nearest few of either picture: a crowd of alike parts stays affordable."""
    taken: dict[int, int] = {}
    kept = []
    for first, second in sorted(found, key=lambda pair: (round(found[pair], 9), pair)):
        if min(taken.get(first, 0), taken.get(second, 0)) < _VERIFIED:
            kept.append((first, second))
            taken[first], taken[second] = taken.get(first, 0) + 1, taken.get(second, 0) + 1
    return sorted(kept)


def _verified(fine: _Floats, details: Sequence[bytes], pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the pairs that share more than their kind does."""
    alike = _most_alike(fine, sorted({index for pair in pairs for index in pair}))
    for first, second in pairs:
        others = {**alike[first], **alike[second]}
        for index, cosine in alike[first].items():
            others[index] = max(cosine, others[index])
        ranked = sorted(others.keys() - {first, second}, key=lambda index: (-others[index], index))
        background = [details[index] for index in ranked[_SHOTS : _SHOTS + _OTHERS]]
        if resemblance(details[first], details[second], background).same:
            yield first, second


def _most_alike(fine: _Floats, wanted: Sequence[int]) -> dict[int, dict[int, float]]:
    """Return for each wanted picture those most like it, with the rounded cosine of their 16 x 16 thumbnails."""
    side, found = THUMBNAIL_SIDE, {}
    unit = _unit(fine.reshape(-1, side // 2, 2, side // 2, 2).sum(axis=(2, 4)).reshape(len(fine), -1))
    count = min(_SHOTS + _OTHERS + 2, len(unit))
    for start in range(0, len(wanted), _BLOCK):
        rows = wanted[start : start + _BLOCK]
        cosines = unit[rows] @ unit.T
        nearest = np.argpartition(cosines, -count, axis=1)[:, -count:]
        for row, columns, values in zip(rows, nearest, np.take_along_axis(cosines, nearest, axis=1), strict=True):
            found[row] = {int(k): round(float(value), 5) for k, value in zip(columns, values, strict=True)}
    return found


def _unit(vectors: _Floats) -> _Floats:
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return np.asarray(vectors / np.maximum(norms, 1e-6)[:, None], dtype=np.float32)


def _usual(vectors: _Floats) -> _Floats:
    """Return each picture's distance to the nearest 5 % of the others (of a sample of them)."""
    unit = _unit(vectors)
    count = len(unit)
    sample = unit[:: max(1, count // _SAMPLE)]
    rank = min(len(sample) - 1, max(_RARE_LEAST, int(_RARE_SHARE * len(sample))))
    usual = np.empty(count, dtype=np.float32)
    for start in range(0, count, _BLOCK):
        distances = 1.0 - unit[start : start + _BLOCK] @ sample.T
        usual[start : start + _BLOCK] = np.partition(distances, rank, axis=1)[:, rank]
    return usual


def _candidates(unit: _Floats, usual: _Floats) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield index arrays of pairs worth a closer look, a block of rows at a time."""
    nearest = min(_NEIGHBOURS, len(unit) - 1)
    limits = np.minimum(_COARSE_DISTANCE, np.maximum(2 * _RARE * usual, 1e-5))
    for start in range(0, len(unit), _BLOCK):
        block = unit[start : start + _BLOCK]
        alike = block @ unit.T
        here = np.arange(len(block))
        alike[here, start + here] = -1.0
        close = alike > 1.0 - limits[start : start + len(block), None]
        crowded = np.flatnonzero(np.count_nonzero(close, axis=1) > nearest)
        if crowded.size:
            edges = np.partition(alike[crowded], -nearest, axis=1)[:, -nearest]
            close[crowded] &= alike[crowded] >= edges[:, None]
        rows, columns = np.nonzero(close)
        yield rows + start, columns


def _cosines(
    fine: _Floats, rows: NDArray[np.int64], columns: NDArray[np.int64], *, detail: bool = False
) -> NDArray[np.float64]:
    """Return the cosine of each pair's thumbnails, or of their detail."""
    cosines = np.zeros(len(rows))
    for start in range(0, len(rows), 4096):
        part = slice(start, start + 4096)
        first, second = fine[rows[part]].astype(np.float64), fine[columns[part]].astype(np.float64)
        if detail:
            first, second = _detail(first), _detail(second)
        product = np.einsum("ij,ij->i", first, second)
        norms = np.sqrt(np.einsum("ij,ij->i", first, first) * np.einsum("ij,ij->i", second, second))
        cosines[part] = product / np.maximum(norms, 1.0)
    return cosines


def _detail(fine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 25 x (picture - 5 x 5 mean), whole numbers."""
    side = THUMBNAIL_SIDE
    picture = fine.reshape(-1, side, side)
    padded = np.pad(picture, ((0, 0), (2, 2), (2, 2)), mode="edge")
    rows = np.asarray(sum(padded[:, k : k + side, :] for k in range(5)))
    box = np.asarray(sum(rows[:, :, k : k + side] for k in range(5)))
    return np.asarray((25.0 * picture - box).reshape(len(fine), -1), dtype=np.float64)


def _bounded(pairs: Sequence[Pair], largest: int) -> list[Pair]:
    """Keep the pairs, nearest first, that let no cluster grow beyond ``largest`` pictures."""
    parent: dict[int, int] = {}
    size: dict[int, int] = {}

    def find(i: int) -> int:
        parent.setdefault(i, i)
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    kept = []
    for pair in pairs:
        first, second = find(pair.first), find(pair.second)
        together = size.get(first, 1) + (size.get(second, 1) if first != second else 0)
        if first != second and together > largest:
            continue
        parent[second], size[first] = first, together
        kept.append(pair)
    return kept

"""What an anomaly model of pictures remembers of good parts: the graph's ``bank`` input, made of its ``features``.

Two ways of asking how far a place of a picture is from good ones, added up. *Position*: a Gaussian of each place
(Defard et al. 2021, PaDiM), on the directions in which good pictures differ most, its covariance drawn to that of all
places where pictures are few. *Examples*: the nearest of some hundred remembered places (Roth et al. 2022, PatchCore),
chosen by a greedy core-set over a bounded sample. The first knows that a hole belongs here and not there, the second
that there are several good looks. Numbers in `benchmarks/results/anomaly_choice.md`.
What the bank's rows are: `edge_sft.memory_layout`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import BugError, DataError
from edge_sft.memory_layout import Layout, top_count

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Halves = NDArray[np.float16]

# The covariance of a place is drawn to that of all places the more, the fewer pictures there are: by D / (D + 4 n).
# On four public sets .02 to .1 are best with 360 to 1,056 pictures; .3 loses a point, all of it five.
_OWN = 4.0
# Examples count half: they win on thermal pictures and screw flanks (.84 and .91 against .83 and .88 of validation
# AUROC), positions on tiles and solar cells (.92 and .86 against .83 and .84).
_WEIGHTS = np.array([1.0, 0.5])
_RIDGE = 1e-3  # of the mean variance: directions without any do not become infinitely telling
_CANDIDATES = 8192  # places among which the core-set is picked
_BLOCK = 64  # pictures at a time
# Pictures among the good that look like none: further above the median than this many robust deviations.
_OUTLYING = 3.5
_ROUNDS = 3
_MOST_LEFT_OUT = 0.35

Told = Callable[[str], None]


@dataclass(frozen=True)
class Memory:
    """A fitted memory.

    Attributes:
        bank: float32 [rows, D], always finite; a score of 1 is at the threshold.
        kept: Which pictures it was made of, [n].
        scores: What each picture gets from memories made without it and its group, in the bank's unit, [n].
        peaks: The highest cell of each picture's map, the same way, [n].
        rate: Share of good pictures that a score of 1 rejects, as asked for.
        facts: What people should know.
    """

    bank: Singles = field(repr=False)
    kept: NDArray[np.bool_]
    scores: Floats
    peaks: Floats
    rate: float
    facts: tuple[str, ...] = ()


def fit(
    features: Halves,
    groups: Sequence[str],
    layout: Layout,
    *,
    rate: float,
    folds: int = 5,
    clean: bool = True,
    alike: bool = False,
    tell: Told | None = None,
) -> Memory:
    """Make a memory of good pictures.

    Args:
        features: float16 [n,P,E], the graph's ``features`` of n good pictures or tiles.
        groups: [n]; what belongs together is scored by a memory without all of it.
        layout: Sizes.
        rate: Share of good pictures that may be rejected; the threshold is the conformal order statistic.
        folds: Parts for scoring good pictures by memories made without them.
        clean: Find pictures that are not like the good ones and leave them out.
        alike: All places are alike (tiles of large pictures): no place has a centre or covariance of its own.
        tell: Called with what is being done.

    Raises:
        DataError: Fewer pictures than the rate needs, all of one group, or features that are not finite.
    """
    require_enough(len(features), rate)
    if not all(np.isfinite(features[block]).all() for block in _blocks(np.arange(len(features)))):
        raise DataError(
            "the backbone",
            "tells numbers of these pictures that half precision does not hold",
            "Take another backbone.",
        )
    say = tell or _silent
    kept = np.ones(len(features), dtype=np.bool_)
    fold = _folds(groups, folds)
    raw = _Raw.empty(len(features))
    for _ in range(_ROUNDS if clean else 1):
        say(f"Scoring {int(kept.sum())} good pictures by memories made without them")
        raw = _cross_fitted(features, fold, kept, layout, alike)
        outlying = _outlying(raw.combined(), kept) if clean else ~kept
        if not (outlying & kept).any():
            break
        kept &= ~outlying
    require_enough(int(kept.sum()), rate)
    say("Remembering good pictures")
    body = _body(features, kept, layout, alike, seed=0)
    weights, limits = raw.scale(kept, rate)
    scales = np.zeros((1, layout.width))
    scales[0, :3] = *(weights / limits[0]), limits[0] / limits[1]
    facts = _facts(kept)
    return Memory(
        np.vstack([body, scales]).astype(np.float32),
        kept,
        raw.combined(weights) / limits[0],
        raw.peaks(weights) / limits[1],
        rate,
        facts,
    )


def require_enough(count: int, rate: float) -> None:
    """Refuse a rate that so many good pictures cannot support. Raises DataError."""
    needed = math.ceil(1 / rate - 1e-9) - 1
    if count < max(needed, 4):
        allowed = f"with {count} at best {100 / (count + 1):.3g} % can be promised" if count else "there are none"
        raise DataError(
            f"a false-reject rate of {100 * rate:g} %",
            f"needs at least {max(needed, 4)} good pictures; {allowed}",
            "Take more pictures of good parts, or ask for a higher policy.false_reject_rate.",
        )


def conformal(scores: Floats, rate: float) -> float:
    """Return the score that a fresh good picture reaches with at most this probability (Vovk et al. 2005).

    The k-th smallest of n scores, k = ceil((n + 1)(1 - rate)); n must be at least 1/rate - 1.
    """
    place = math.ceil((len(scores) + 1) * (1 - rate) - 1e-9)
    if place > len(scores):
        raise BugError("conformal bound", f"{len(scores)} scores for a rate of {rate}", "Please report it.")
    return float(np.partition(scores, place - 1)[place - 1])


def score(features: Halves, bank: Singles, layout: Layout) -> tuple[Singles, Singles]:
    """Return scores [n] and maps [n,P] as the graph does, in numpy."""
    basis, centres, whitening, examples, scales = layout.cut(bank)
    told: list[tuple[Singles, Singles]] = []
    for start in range(0, len(features), _BLOCK):
        reduced = features[start : start + _BLOCK].astype(np.float32) @ basis - centres
        told.append((_by_position(reduced, whitening), _by_example(reduced, examples)))
    position, example = (np.concatenate(parts) for parts in zip(*told, strict=True))
    cells = scales[0] * position + scales[1] * example
    return scales[0] * top_mean(position) + scales[1] * top_mean(example), cells * scales[2]


def top_mean(cells: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the mean of the highest cells of each picture, [n,P] → [n]."""
    count = top_count(cells.shape[1])
    return np.asarray(np.sort(np.partition(cells, -count, axis=1)[:, -count:], axis=1).mean(axis=1))


@dataclass(frozen=True)
class _Raw:
    """Cross-fitted distances before they are weighed: of the score and of the highest cell, [n,2] each."""

    scores: Floats
    highest: Floats

    @classmethod
    def empty(cls, count: int) -> _Raw:
        return cls(np.zeros((count, 2)), np.zeros((count, 2)))

    def scale(self, kept: NDArray[np.bool_], rate: float) -> tuple[Floats, tuple[float, float]]:
        """Return the two ways' weights, and the limits of score and map at the rate."""
        weights = _WEIGHTS / np.maximum(_spread(self.scores[kept]), 1e-9)
        return weights, (
            max(conformal(self.combined(weights)[kept], rate), 1e-12),
            max(conformal(self.peaks(weights)[kept], rate), 1e-12),
        )

    def combined(self, weights: Floats | None = None) -> Floats:
        used = _WEIGHTS / np.maximum(_spread(self.scores), 1e-9) if weights is None else weights
        return np.asarray(self.scores @ used)

    def peaks(self, weights: Floats) -> Floats:
        return np.asarray(self.highest @ weights)


def _silent(what: str) -> None:
    """Tell nobody."""


def _spread(values: Floats) -> Floats:
    """Return a robust deviation of each column; a few mislabelled pictures do not move it."""
    low, high = np.quantile(values, (0.25, 0.75), axis=0)
    return np.asarray((high - low) / 1.349)


def _folds(groups: Sequence[str], folds: int) -> NDArray[np.int64]:
    """Give each picture a fold, whole groups at a time, evenly."""
    names = sorted(set(groups))
    count = min(folds, len(names))
    if count < 2:
        raise DataError(
            "the good pictures", "are all of one group", "Give pictures of at least two groups (parts, lots, tiles)."
        )
    order = np.random.default_rng(0).permutation(len(names))
    place = {names[index]: rank % count for rank, index in enumerate(order)}
    return np.array([place[group] for group in groups], dtype=np.int64)


def _cross_fitted(
    features: Halves, fold: NDArray[np.int64], kept: NDArray[np.bool_], layout: Layout, alike: bool
) -> _Raw:
    raw = _Raw.empty(len(features))
    for number in range(int(fold.max()) + 1):
        inside = kept & (fold != number)
        bank = np.vstack([_body(features, inside, layout, alike, seed=number), np.zeros((1, layout.width))])
        basis, centres, whitening, examples, _ = layout.cut(bank.astype(np.float32))
        outside = np.flatnonzero(fold == number)
        for block in _blocks(outside):
            reduced = features[block].astype(np.float32) @ basis - centres
            for way, cells in enumerate((_by_position(reduced, whitening), _by_example(reduced, examples))):
                raw.scores[block, way] = top_mean(cells)
                raw.highest[block, way] = cells.max(axis=1)
    return raw


def _body(features: Halves, chosen: NDArray[np.bool_], layout: Layout, alike: bool, *, seed: int) -> Floats:
    """Return all rows of a bank but its scales, made of the chosen pictures."""
    index = np.flatnonzero(chosen)
    centre, basis = _directions(features, index, layout, alike)
    centres = (centre @ basis).astype(np.float32)
    reduced = np.empty((len(index), layout.places, layout.width), dtype=np.float32)
    for block in _blocks(np.arange(len(index))):
        reduced[block] = features[index[block]].astype(np.float32) @ basis.astype(np.float32) - centres
    whitening = _whitening(reduced, alike)
    examples = _core_set(reduced.reshape(-1, layout.width), layout.examples, seed)
    return np.vstack([basis, centres, whitening.reshape(-1, layout.width), examples])


def _blocks(index: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(index), _BLOCK):
        yield index[start : start + _BLOCK]


def _directions(features: Halves, index: NDArray[np.int64], layout: Layout, alike: bool) -> tuple[Floats, Floats]:
    """Return the places' means [P,E] and the directions in which pictures differ most, [E,D]; in one pass."""
    total = np.zeros((layout.places, layout.features))
    products = np.zeros((layout.features, layout.features))
    for block in _blocks(index):
        part = features[block].astype(np.float32)
        total += part.sum(axis=0, dtype=np.float64)
        flat = part.reshape(-1, layout.features)
        products += flat.T @ flat
    mean = total / len(index)
    if alike:
        mean = np.broadcast_to(mean.mean(axis=0), mean.shape)
    covariance = products / (len(index) * layout.places) - mean.T @ mean / layout.places
    _, vectors = np.linalg.eigh(covariance)
    return mean, vectors[:, ::-1][:, : layout.width]


def _whitening(reduced: Singles, alike: bool) -> Floats:
    """Return the inverse root of each place's covariance, [P,D,D]: rows turn a deviation into unusual ones."""
    count, places, width = reduced.shape
    own = np.stack([reduced[:, place].T @ reduced[:, place] for place in range(places)]).astype(np.float64)
    own /= max(1, count - 1)
    shared = own.mean(axis=0)
    weight = 1.0 if alike else width / (width + _OWN * count)
    ridge = _RIDGE * max(float(np.trace(shared)) / width, 1e-12) * np.eye(width)
    if alike:
        return np.broadcast_to(_inverse_root(shared + ridge), own.shape)
    return np.stack([_inverse_root((1 - weight) * matrix + weight * shared + ridge) for matrix in own])


def _inverse_root(covariance: Floats) -> Floats:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors / np.sqrt(values)).T)


def _core_set(places: Singles, count: int, seed: int) -> Singles:
    """Pick examples that leave no candidate far from all of them (greedy k-centre); of few, repeat them."""
    rng = np.random.default_rng(seed)
    some = places if len(places) <= _CANDIDATES else places[rng.choice(len(places), _CANDIDATES, replace=False)]
    lengths = np.square(some).sum(axis=1)
    far = np.full(len(some), np.inf, dtype=np.float32)
    picked = [0]
    for _ in range(min(count, len(some)) - 1):
        last = some[picked[-1]]
        far = np.minimum(far, lengths - 2 * (some @ last) + lengths[picked[-1]])
        picked.append(int(far.argmax()))
    return some[np.resize(np.array(picked), count)]


def _by_position(reduced: Singles, whitening: Singles) -> Singles:
    """Mahalanobis distance of each place from its own Gaussian, [n,P,D] → [n,P]."""
    white: Singles = np.matmul(reduced.transpose(1, 0, 2), whitening.transpose(0, 2, 1))  # [P,n,D]
    return np.asarray(np.sqrt(np.square(white).sum(axis=2)).T, dtype=np.float32)


def _by_example(reduced: Singles, examples: Singles) -> Singles:
    """Distance of each place from the nearest example, [n,P,D] → [n,P]."""
    flat = reduced.reshape(-1, reduced.shape[2])
    squared = np.square(flat).sum(axis=1)[:, None] - 2 * (flat @ examples.T) + np.square(examples).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squared.min(axis=1), 0)).reshape(reduced.shape[:2]), dtype=np.float32)


def _outlying(scores: Floats, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which pictures are unlike the good ones; never more than a share, the most unlike first."""
    logs = np.log(np.maximum(scores, 1e-12))
    middle = np.median(logs[kept])
    deviation = 1.4826 * float(np.median(np.abs(logs[kept] - middle)))
    unlike = (logs - middle) / max(deviation, 1e-9)
    worst = np.sort(unlike)[::-1][int(_MOST_LEFT_OUT * len(unlike))]
    return np.asarray(unlike > max(_OUTLYING, worst))


def _facts(kept: NDArray[np.bool_]) -> tuple[str, ...]:
    left = int((~kept).sum())
    if not left:
        return ()
    which = (
        "picture is unlike the other good ones and was"
        if left == 1
        else "pictures are unlike the other good ones and were"
    )
    return (f"{left} of {len(kept)} {which} left out of what is remembered.",)

"""Two models of one site on the same samples: how much better one is, and the 95 % interval of that.

Computed where the samples are, from what two checkpoints said of each; only the difference and its interval leave. What
belongs together (pictures of one part, windows of one machine) is drawn together: a bootstrap over such units, within
the classes they are of, so that a rare one does not vanish from a draw; where a class has next to no units there is no
interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edge_sft import checkpoint as files
from edge_sft.metrics.classification import roc

Split = Literal["val", "test"]
Floats = NDArray[np.float64]

_DRAWS: Final = 2000
_AT_ONCE: Final = 100  # draws: their weights of 5000 units are 4 MB
_LEAST: Final = 8  # units; of fewer a bootstrap says too little, and its interval is too narrow
_LEAST_OF_CLASS: Final = 3  # a class of one would not vary at all, and may decide the whole difference


@dataclass(frozen=True)
class Gain:
    """How much better a model is than another, and the 95 % interval.

    Shares: 0.01 = one point of balanced accuracy or of the area under the curve, or one per cent less error.
    """

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Marks:
    """What a model is worth, unit by unit, so that any draw of units is a sum.

    Attributes:
        units: Names of what belongs together, sorted [U].
        strata: Class of each unit, int64 [U]; drawn within.
        mass: How much each unit counts, by class, [U, K].
        good: How much of it is right (of errors: their squares), [U, K].
        error: Whether it is a root mean square error; else the mean over classes of the share that is right.
    """

    units: NDArray[Any]
    strata: NDArray[np.int64]
    mass: Floats
    good: Floats
    error: bool

    def worth(self, weights: Floats) -> Floats:
        """Return the score of draws; ``weights`` [D, U] say how often each unit is in it."""
        mass, good = weights @ self.mass, weights @ self.good
        share = good / np.where(mass > 0, mass, 1.0)
        if self.error:
            return np.asarray(np.sqrt(share[:, 0]))
        there = mass > 0
        return np.asarray((share * there).sum(axis=1) / np.maximum(1, there.sum(axis=1)))


def marks(checkpoint: Path, split: Split, groups: Mapping[str, str]) -> Marks | None:
    """Read what a checkpoint said of a split's samples.

    Args:
        checkpoint: Its folder.
        split: Which samples.
        groups: What a sample (picture, run) belongs to, by its id; itself where it is not named.

    Returns:
        None where nothing of that split can be scored.

    Raises:
        DataError: The scores are damaged.
    """
    if (checkpoint / files.SCORES).is_file():
        return _of_pictures(files.read_scores(checkpoint).get(split), groups)
    if not (checkpoint / files.SENSOR_SCORES).is_file():
        return None
    kept = files.read_sensor_scores(checkpoint)
    said = {key.partition("/")[2]: value for key, value in kept.items() if key.startswith(f"{split}/")}
    if not len(said.get("run", ())):
        return None
    if "rul" in said:
        return _of_lives(said, float(kept["cap"]), groups)
    return _of_faults(said) if "probabilities" in said else _of_anomalies(said, groups)


def gain(ours: Marks | None, theirs: Marks | None) -> Gain | None:
    """Compare two models on the same samples.

    Returns:
        None where one of them was not judged, or there are too few units for an interval.
    """
    if ours is None or theirs is None or not np.array_equal(ours.units, theirs.units):
        return None
    if len(ours.units) < _LEAST or np.unique(ours.strata, return_counts=True)[1].min() < _LEAST_OF_CLASS:
        return None
    rng = np.random.default_rng(0)
    drawn = [_better(ours, theirs, _weights(rng, ours.strata, _AT_ONCE)) for _ in range(_DRAWS // _AT_ONCE)]
    found = float(_better(ours, theirs, np.ones((1, len(ours.units))))[0])
    low, high = (float(value) for value in np.quantile(np.concatenate(drawn), (0.025, 0.975)))
    return Gain(found, min(low, found), max(high, found))


def told(ends: Mapping[str, Path], groups: Mapping[str, str]) -> dict[str, float]:
    """Return what leaves the site of all comparisons: ``paired/personal-alone/test/difference`` and so on.

    Args:
        ends: Checkpoints by the side they are, best first: each is compared with all after it.
        groups: As `marks` has them.
    """
    found: dict[str, float] = {}
    splits: tuple[Split, ...] = ("val", "test")
    for split in splits:
        seen = {side: marks(path, split, groups) for side, path in ends.items()}
        sides = list(seen)
        for place, ours in enumerate(sides):
            for theirs in sides[place + 1 :]:
                better = gain(seen[ours], seen[theirs])
                if better is not None:
                    title = f"paired/{ours}-{theirs}/{split}"
                    found |= {f"{title}/{name}": value for name, value in vars(better).items()}
    return found


def _better(ours: Marks, theirs: Marks, weights: Floats) -> Floats:
    mine, other = ours.worth(weights), theirs.worth(weights)
    if not ours.error:
        return mine - other
    return np.asarray(np.divide(other - mine, other, out=np.zeros_like(other), where=other > 0))


def _weights(rng: np.random.Generator, strata: NDArray[np.int64], draws: int) -> Floats:
    weights = np.zeros((draws, len(strata)))
    for one in np.unique(strata):
        here = np.flatnonzero(strata == one)
        weights[:, here] = rng.multinomial(len(here), np.full(len(here), 1 / len(here)), size=draws)
    return weights


def _of_pictures(said: files.Scores | None, groups: Mapping[str, str]) -> Marks | None:
    if said is None or not len(said.labels):
        return None
    right = said.probabilities.argmax(axis=1) == said.labels
    weights = said.weights.astype(np.float64)
    return _by_class(_named(said.ids, groups), said.labels, weights, right * weights)


def _of_faults(said: Mapping[str, NDArray[Any]]) -> Marks | None:
    """By window; a machine's windows of a label count one together."""
    known = said["label"] >= 0
    label, group = said["label"][known], said["group"][known]
    if not len(label):
        return None
    right = said["probabilities"][known].argmax(axis=1) == label
    found = _by_class(group, label, np.ones(len(label)), right.astype(np.float64))
    share = found.good / np.maximum(found.mass, 1.0)
    return Marks(found.units, found.strata, (found.mass > 0).astype(np.float64), share, error=False)


def _of_lives(said: Mapping[str, NDArray[Any]], cap: float, groups: Mapping[str, str]) -> Marks | None:
    known = np.isfinite(said["rul"])
    wrong = said["value"][known].astype(np.float64) - np.minimum(said["rul"][known], cap)
    if not len(wrong):
        return None
    units, place = np.unique(_named(said["run"][known], groups), return_inverse=True)
    count: Floats = np.bincount(place).astype(np.float64)
    squares: Floats = np.bincount(place, weights=wrong**2).astype(np.float64)
    return Marks(units, np.zeros(len(units), dtype=np.int64), count[:, None], squares[:, None], error=True)


def _of_anomalies(said: Mapping[str, NDArray[Any]], groups: Mapping[str, str]) -> Marks | None:
    """By run: the area under its curve, where its watched windows are of both kinds."""
    watched = ~said["commissioning"] & np.isfinite(said["threshold"]) & (said["label"] >= 0)
    watched &= np.isfinite(said["score"])
    areas: dict[str, float] = {}
    for run in np.unique(said["run"][watched]):
        here = watched & (said["run"] == run)
        curve = roc(said["label"][here] == 1, said["score"][here])
        if curve is not None:
            areas[str(run)] = curve.area
    if not areas:
        return None
    mass, good = np.ones(len(areas)), np.array(list(areas.values()))
    return _by_class(_named(list(areas), groups), np.zeros(len(areas), np.int64), mass, good)


def _by_class(
    names: NDArray[Any], labels: NDArray[np.int64], mass: NDArray[np.float64], good: NDArray[np.float64]
) -> Marks:
    units, first, place = np.unique(names, return_index=True, return_inverse=True)
    masses, goods = (np.zeros((len(units), int(labels.max()) + 1)) for _ in range(2))
    np.add.at(masses, (place, labels), mass)
    np.add.at(goods, (place, labels), good)
    return Marks(units, np.asarray(labels[first], dtype=np.int64), masses, goods, error=False)


def _named(ids: Sequence[str] | NDArray[Any], groups: Mapping[str, str]) -> NDArray[Any]:
    return np.array([groups.get(str(one), str(one)) for one in ids], dtype=np.str_)

"""One normaliser for the sensors of all sites, from counts, means and deviations that each site tells. Pure.

Machines of one kind with the same sensors are the same machines at every site: numbers that differ between sites say
how worn they are, and a normalisation of each site's own would take that away. With operating conditions, the sites'
conditions are joined first: always the two that lie nearest by Ward's distance (Ward 1963), until there are no more
than were asked for, and further while two lie within half the deviation of their own rows: then they are one.

Features of windows are standardised alike everywhere too. Sites tell how theirs are under their own normalisation: that
brings all to one scale, which is all that is needed, without asking twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_sft.federated.learner import Arrays
from edge_sft.models.sensors.normalise import distance_weight, inverse

PREFIX: Final = "normalise."
STANDARD: Final = "standard."
NAMES: Final = tuple(PREFIX + name for name in ("mean", "scale", "centres", "weight"))
_SAME = 0.5  # standard deviations of two conditions' own rows within which they are one
_ODD = 10.0  # times a channel's deviation that a site may be away from the others, or vary more or less than they
_TINY = 1e-5  # of the overall spread: float32 on the way

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Rows of one condition at one or more sites: how many, their mean and variance, by channel; arrays [C]."""

    count: Rows
    mean: Rows
    variance: Rows

    def joined(self, other: Group) -> Group:
        """Return both together."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1.0)
        apart = other.mean - self.mean
        mean = self.mean + share * apart
        variance = (1 - share) * self.variance + share * other.variance + share * (1 - share) * apart**2
        return Group(count, mean, variance)


def told(count: Rows, mean: Rows, std: Rows, most: int) -> Arrays:
    """Return what a site tells: [most, C] each, empty rows for conditions that it does not have."""
    wide = {"count": count, "mean": mean, "std": std}
    room = ((0, most - len(count)), (0, 0))
    return {f"{PREFIX}{name}": np.pad(rows, room).astype(np.float32) for name, rows in wide.items()}


def told_features(count: int, mean: Rows, std: Rows) -> Arrays:
    """Return what a site tells of its features: how many windows [1], mean and deviation [F]."""
    found: dict[str, Rows] = {"count": np.array([float(count)]), "mean": mean, "std": std}
    return {f"{STANDARD}{name}": values.astype(np.float32) for name, values in found.items()}


def problem(arrays: Arrays, like: Mapping[str, tuple[int, ...]]) -> str:
    """Return what is wrong with what a site told, "" if nothing.

    Args:
        arrays: What it told.
        like: Shapes of the starting weights, in which the normaliser has its place.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    if f"{PREFIX}mean" in like:
        shapes = {f"{PREFIX}{name}": like[f"{PREFIX}mean"] for name in ("count", "mean", "std")}
        shapes |= {f"{STANDARD}{name}": like["mean"] for name in ("mean", "std")} | {f"{STANDARD}count": (1,)}
    if set(arrays) != set(shapes):
        return f"it tells {', '.join(sorted(arrays)) or 'nothing'} of its channels, not {', '.join(sorted(shapes))}"
    for name, values in arrays.items():
        if values.shape != shapes[name] or not np.isfinite(values).all():
            return f"{name} has the shape {values.shape}, not {shapes[name]}, or is not finite"
        if not name.endswith("mean") and (values < 0).any():
            return f"{name} is below 0"
    counts = [arrays[f"{prefix}count"].any() for prefix in (PREFIX, STANDARD)] if arrays else []
    return "" if all(counts) else "it has not one row"


def standardisation(told: Sequence[Arrays]) -> Arrays:
    """Return the features' common ``mean`` and ``scale`` [F], float32, 0 for one without life."""
    groups = []
    for arrays in told:
        mean, std = (arrays[f"{STANDARD}{name}"].astype(np.float64) for name in ("mean", "std"))
        groups.append(Group(np.full(mean.shape, float(arrays[f"{STANDARD}count"][0])), mean, std**2))
    whole = _together(groups)
    scale = inverse(np.sqrt(whole.variance), whole.mean)
    return {"mean": whole.mean.astype(np.float32), "scale": scale.astype(np.float32)}


def merged(told: Sequence[Arrays], *, conditions: Sequence[int], lifelong: Sequence[int]) -> Arrays:
    """Return one normaliser's buffers by name, float32: mean, scale [K,C], centres [K,D], weight [D].

    Args:
        told: What each site told (see `told`), in an order that does not change.
        conditions: The D condition channels.
        lifelong: Channels that are normalised over all conditions.

    Conditions of which there are fewer than K repeat the first.
    """
    most = len(told[0][f"{PREFIX}count"])
    groups = _groups(told)
    whole = _together(groups)
    chosen = list(conditions)
    weight = distance_weight(np.sqrt(whole.variance[chosen]), np.abs(whole.mean[chosen]))
    groups = _clustered(groups, chosen, weight, most) if chosen else [whole]
    groups.sort(key=lambda group: tuple(group.mean[chosen]))
    groups += [groups[0]] * (most - len(groups))
    seen = np.stack([group.count >= 2 for group in groups])
    seen[:, list(lifelong)] = False
    mean = np.where(seen, np.stack([group.mean for group in groups]), whole.mean)
    std = np.where(seen, np.stack([np.sqrt(group.variance) for group in groups]), np.sqrt(whole.variance))
    centres = np.stack([group.mean[chosen] for group in groups])
    found = (mean, inverse(std, mean), centres, weight)
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in zip(NAMES, found, strict=True)}


def oddities(told: Mapping[str, Arrays], channels: Sequence[str], conditions: Sequence[int]) -> dict[str, str]:
    """Return whose channels are in other units, as it seems, in words; nothing for two sites: who would be right?

    Args:
        told: What each site told, by its name.
        channels: Names of the C channels.
        conditions: Those that tell the condition: sites may differ in them, and with them in the others' level; what
            is compared then is how much the others vary within a condition.
    """
    if len(told) < 3:
        return {}
    sites = {name: _groups([arrays]) for name, arrays in told.items()}
    level = {name: _together(groups).mean for name, groups in sites.items()}
    width = {name: _within(groups) for name, groups in sites.items()}
    mean, std = np.median(list(level.values()), axis=0), np.median(list(width.values()), axis=0)
    found = {}
    for name, own in width.items():
        odd = (own > _ODD * std) | (std > _ODD * own)
        if not conditions:
            odd |= np.abs(level[name] - mean) > _ODD * np.maximum(own, std)
        odd &= (std > 0) & (own > 0)  # what stands still here says nothing of its unit
        odd[list(conditions)] = False
        for c in np.flatnonzero(odd)[:1]:
            found[name] = (
                f"its {channels[c]} is {level[name][c]:.3g} ± {own[c]:.3g}, at the sites in the middle {mean[c]:.3g} ± "
                f'{std[c]:.3g}: if that is another unit or another kind of machine, set normaliser = "local"'
            )
    return found


_MOMENTS: Final = (("count", 1), ("mean", 1), ("std", 2))


def _groups(told: Sequence[Arrays]) -> list[Group]:
    return [
        Group(*(arrays[f"{PREFIX}{name}"][k].astype(np.float64) ** power for name, power in _MOMENTS))
        for arrays in told
        for k in np.flatnonzero(arrays[f"{PREFIX}count"].any(axis=1))
    ]


def _within(groups: Sequence[Group]) -> Rows:
    """Return each channel's deviation within conditions, [C]."""
    count = np.maximum(np.sum([group.count for group in groups], axis=0), 1.0)
    return np.asarray(np.sqrt(np.sum([group.count * group.variance for group in groups], axis=0) / count))


def _together(groups: Sequence[Group]) -> Group:
    whole = groups[0]
    for group in groups[1:]:
        whole = whole.joined(group)
    return whole


def _clustered(groups: Sequence[Group], conditions: list[int], weight: Rows, most: int) -> list[Group]:
    """Join groups until no more than ``most`` are left and no two are one."""
    left = list(groups)
    while len(left) > 1:
        pairs = [(a, b) for b in range(len(left)) for a in range(b)]
        costs = [_ward(left[a], left[b], conditions, weight) for a, b in pairs]
        if len(left) <= most:
            costs = [
                cost if _one(left[a], left[b], conditions, weight) else np.inf
                for cost, (a, b) in zip(costs, pairs, strict=True)
            ]
        place = int(np.argmin(costs))
        if not np.isfinite(costs[place]):
            break
        first, second = pairs[place]
        left[first] = left[first].joined(left[second])
        del left[second]
    return left


def _ward(a: Group, b: Group, conditions: list[int], weight: Rows) -> float:
    many = a.count[conditions].max() * b.count[conditions].max()
    off = (a.mean - b.mean)[conditions] * weight
    return float(many / max(a.count[conditions].max() + b.count[conditions].max(), 1.0) * (off @ off))


def _one(a: Group, b: Group, conditions: list[int], weight: Rows) -> bool:
    off = (a.mean - b.mean)[conditions] * weight
    own = (a.variance + b.variance)[conditions] * weight**2
    return bool(np.sqrt(off @ off) <= _SAME * np.sqrt(own.sum()) + _TINY)

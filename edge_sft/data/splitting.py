"""Cutting pictures into train, val and test: deterministic, stratified, grouped. Pure; no file is read.

What decides is a hash of the group's name or of the pictures' content: where the files lie and in what order they
come does not matter, and adding pictures moves few of those already there.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge_sft.data.dataset import SplitName


@dataclass(frozen=True)
class Member:
    """What splitting needs to know about one picture.

    ``split`` is the side its owner put it on, or None; ``group`` the owner's group, or None.
    """

    sha256: str
    label: str
    group: str | None
    split: SplitName | None


@dataclass(frozen=True)
class Placed:
    """Where a picture ended up: its side, and the joined group it must stay with (None when alone)."""

    split: SplitName
    group: str | None


@dataclass(frozen=True)
class _Bundle:
    """Pictures that stay together, by index; ``key`` orders bundles at random but reproducibly."""

    members: tuple[int, ...]
    key: str
    name: str | None
    labels: Counter[str]


def place(
    members: Sequence[Member], alike: Iterable[tuple[int, int]], *, val: float, test: float, seed: int
) -> list[Placed]:
    """Give every picture a side.

    Args:
        members: The pictures.
        alike: Index pairs that must not straddle (near-duplicates); equal content and equal groups are joined anyway.
        val: Share of the pictures for validation, within every label.
        test: Share for the test; 0 for none.
        seed: Another seed, another cut.

    Sides that the owner gave stay, even where they tear a group apart. Pictures without a side follow their group if
    one of it has a side. A missing val is cut from train; a missing test too, unless train and val were both given.
    """
    given = {member.split for member in members} - {None}
    bundles = _bundles(members, alike, seed)
    sides = _follow(members, bundles)
    want_val = 0.0 if "val" in given else val
    want_test = 0.0 if "test" in given or {"train", "val"} <= given else test
    cut_train = "train" in given and (want_val or want_test)
    free = []
    for bundle in bundles:
        known = {sides[i] for i in bundle.members}
        if known == {None} or (cut_train and known == {"train"}):
            free.append(bundle)
    for bundle, side in _deal(free, {"test": want_test, "val": want_val}):
        for i in bundle.members:
            sides[i] = side
    joined = [b.name for b in bundles for _ in b.members]
    order = [i for b in bundles for i in b.members]
    names = dict(zip(order, joined, strict=True))
    return [Placed(side or "train", names[i]) for i, side in enumerate(sides)]


def _follow(members: Sequence[Member], bundles: Iterable[_Bundle]) -> list[SplitName | None]:
    """Let pictures without a side take the commonest side of their group."""
    sides = [member.split for member in members]
    for bundle in bundles:
        known = Counter(side for i in bundle.members if (side := sides[i]) is not None)
        if known:
            common = min(known, key=lambda side: (-known[side], side))
            for i in bundle.members:
                sides[i] = sides[i] or common
    return sides


def _deal(bundles: Sequence[_Bundle], shares: dict[SplitName, float]) -> list[tuple[_Bundle, SplitName]]:
    """Deal bundles out, rarest label first, so that each side has its share of every label.

    A bundle is taken where it brings the label nearer to its share; a label whose bundles suffice gets at least one
    on every wanted side, and always one in train.
    """
    totals = sum((bundle.labels for bundle in bundles), Counter[str]())
    waiting = sorted(bundles, key=lambda bundle: bundle.key)
    wanted: list[SplitName] = [side for side in ("test", "val") if shares.get(side, 0.0) > 0]
    have: dict[SplitName, Counter[str]] = {side: Counter() for side in ("train", "val", "test")}
    dealt: list[tuple[_Bundle, SplitName]] = []

    def take(bundle: _Bundle, side: SplitName) -> None:
        dealt.append((bundle, side))
        have[side].update(bundle.labels)

    for label in sorted(totals, key=lambda name: (totals[name], name)):
        mine = [bundle for bundle in waiting if bundle.labels[label]]
        waiting = [bundle for bundle in waiting if not bundle.labels[label]]
        for position, side in enumerate(wanted):
            later = sum(1 for other in wanted[position + 1 :] if not have[other][label])
            spare = len(mine) - later - (0 if have["train"][label] else 1)  # bundles this side may take
            kept = []
            for bundle in mine:
                nearer = 2 * have[side][label] + bundle.labels[label] <= 2 * shares[side] * totals[label]
                if nearer and spare > 0:
                    take(bundle, side)
                    spare -= 1
                else:
                    kept.append(bundle)
            if not have[side][label] and spare > 0:
                smallest = min(kept, key=lambda bundle: (bundle.labels[label], bundle.key))
                kept.remove(smallest)
                take(smallest, side)
            mine = kept
        for bundle in mine:
            take(bundle, "train")
    return dealt


def _bundles(members: Sequence[Member], alike: Iterable[tuple[int, int]], seed: int) -> list[_Bundle]:
    parent = list(range(len(members)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(i: int, j: int) -> None:
        low, high = sorted((find(i), find(j)))
        parent[high] = low

    first: dict[tuple[str, str], int] = {}
    for index, member in enumerate(members):
        join(first.setdefault(("content", member.sha256), index), index)
        if member.group is not None:
            join(first.setdefault(("group", member.group), index), index)
    for i, j in alike:
        join(i, j)
    together: dict[int, list[int]] = defaultdict(list)
    for index in range(len(members)):
        together[find(index)].append(index)
    return [_bundle([members[i] for i in indices], indices, seed) for indices in together.values()]


def _bundle(members: Sequence[Member], indices: Sequence[int], seed: int) -> _Bundle:
    groups = sorted({member.group for member in members if member.group is not None})
    content = min(member.sha256 for member in members)
    name = groups[0] if groups else f"alike-{content[:12]}" if len(members) > 1 else None
    key = hashlib.sha256(f"{seed} {groups[0] if groups else content}".encode()).hexdigest()
    return _Bundle(tuple(indices), key, name, Counter(member.label for member in members))

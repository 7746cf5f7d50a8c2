"""Sides for runs: whole groups only, and a split that leaks is refused with the reason."""

from __future__ import annotations

import fnmatch
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from edge_sft.data import splitting
from edge_sft.data.dataset import SplitName
from edge_sft.data.sensors.columns import span_of
from edge_sft.data.sensors.labelling import Record
from edge_sft.data.sensors.wording import percent
from edge_sft.errors import DataError, UserError
from edge_sft.sensor_recipe import SensorRecipe

_LEAK = 0.01  # of a side's rows: more would move a result by as much
_SHOWN = 6


def sides(records: Sequence[Record], recipe: SensorRecipe) -> list[SplitName]:
    """Give every record a side, all records of a group the same one.

    Raises:
        UserError: ``val_groups`` or ``test_groups`` name a group that is not there, or one group twice.
    """
    split = recipe.data.split
    given = _given(records, recipe)
    if span_of(recipe.data.group) is not None and not given:
        return _by_time(records, split.val, split.test)
    members = [
        splitting.Member(record.sha256, _label(record, recipe), record.group, given.get(record.group))
        for record in records
    ]
    placed = splitting.place(members, (), val=split.val, test=split.test, seed=split.seed)
    return [place.split for place in placed]


def refuse_leaks(records: Sequence[Record], chosen: Sequence[SplitName], recipe: SensorRecipe) -> None:
    """Refuse a split that puts one machine, or copies of the same rows, on two sides.

    Raises:
        DataError: It leaks; the reason names machines or runs.
    """
    _same_machine(records, chosen, recipe)
    _same_rows(records, chosen)


def _given(records: Sequence[Record], recipe: SensorRecipe) -> dict[str, SplitName]:
    groups = sorted({record.group for record in records})
    split = recipe.data.split
    given: dict[str, SplitName] = {}
    wanted: tuple[tuple[SplitName, tuple[str, ...]], ...] = (("val", split.val_groups), ("test", split.test_groups))
    for side, patterns in wanted:
        for pattern in patterns:
            found = [pattern] if pattern in groups else fnmatch.filter(groups, pattern)
            if not found:
                close = get_close_matches(pattern, groups, n=1)
                hint = f"Did you mean '{close[0]}'?" if close else f"The groups are {_names(groups)}."
                raise UserError(f"data.split.{side}_groups", f"names '{pattern}', which is no group", hint)
            for group in found:
                if given.setdefault(group, side) != side:
                    fact = f"put '{group}' in val and in test: its windows would judge themselves"
                    raise UserError("data.split", fact, "Name each group on one side.")
    return given


def _label(record: Record, recipe: SensorRecipe) -> str:
    """Return what a record counts as when labels are dealt out evenly: its commonest fault label."""
    if record.labels is None or recipe.task.kind != "classification":
        return ""
    known = record.labels[record.labels >= 0]
    return str(int(np.bincount(known).argmax())) if len(known) else "-1"


def _by_time(records: Sequence[Record], val: float, test: float) -> list[SplitName]:
    """Put blocks of time on sides in their order: first to train, last to test."""
    rows: Counter[str] = Counter()
    start: dict[str, float] = {}
    for record in records:
        rows[record.group] += len(record.time)
        start[record.group] = min(start.get(record.group, np.inf), float(record.time.min()))
    order = sorted(rows, key=lambda group: start[group])
    total, before = sum(rows.values()), 0
    place: dict[str, SplitName] = {}
    for group in order:
        middle = (before + rows[group] / 2) / total
        place[group] = "train" if middle < 1 - val - test else "val" if middle < 1 - test else "test"
        before += rows[group]
    if len(order) > 1 and "val" not in place.values():
        place[order[-1]] = "val"
    return [place[record.group] for record in records]


def _same_machine(records: Sequence[Record], chosen: Sequence[SplitName], recipe: SensorRecipe) -> None:
    found: defaultdict[str, dict[SplitName, str]] = defaultdict(dict)
    for record, side in zip(records, chosen, strict=True):
        found[record.asset].setdefault(side, record.id)
    torn = {asset: where for asset, where in found.items() if len(where) > 1}
    if not torn or len(found) == 1 or span_of(recipe.data.group) is not None:
        return  # of one machine alone nothing else can be cut; a finding says what it is worth
    asset, where = next(iter(torn.items()))
    examples = " and ".join(f"{name} ({side})" for side, name in sorted(where.items()))
    raise DataError(
        "data.split",
        f"leaks: {_number(len(torn), 'machine')} ({_names(list(torn))}) would lie on several sides, for example "
        f"'{asset}' in {examples}; a model would be praised for knowing the machine",
        f"Set data.group = '{recipe.data.asset}'; windows of a machine stay together.",
    )


def _same_rows(records: Sequence[Record], chosen: Sequence[SplitName]) -> None:
    prints = [sampled(record.values) for record in records]
    trained = [p for p, side in zip(prints, chosen, strict=True) if side == "train"]
    for side, other in (("test", "train"), ("val", "train"), ("test", "val")):
        pool = trained if other == "train" else [p for p, s in zip(prints, chosen, strict=True) if s == other]
        known = np.unique(np.concatenate(pool)) if pool else np.zeros(0, dtype=np.uint64)
        mine = [(r, p) for r, p, s in zip(records, prints, chosen, strict=True) if s == side and len(p)]
        hits = [(record, _shared(p, known), len(p)) for record, p in mine] if len(known) else []
        shared, total = sum(h for _, h, _ in hits), sum(n for _, _, n in hits)
        if total and shared / total > _LEAK:
            worst = max(hits, key=lambda hit: hit[1])[0]
            twin = _twin(worst, records, chosen, other)
            raise DataError(
                "data.split",
                f"leaks: {percent(shared / total)} of the {side} rows are also in {other}, for example "
                f"{worst.id} ({side}) and {twin} ({other})",
                "Remove the copies, or give both the same group (data.group), so that they stay on one side.",
            )


def _twin(record: Record, records: Sequence[Record], chosen: Sequence[SplitName], other: str) -> str:
    mine = np.unique(sampled(record.values))
    there = [one for one, side in zip(records, chosen, strict=True) if side == other]
    return max(there, key=lambda one: _shared(sampled(one.values), mine)).id


def _shared(mine: NDArray[np.uint64], known: NDArray[np.uint64]) -> int:
    """Count how many are known; ``known`` is sorted and not empty."""
    at = np.minimum(np.searchsorted(known, mine), len(known) - 1)
    return int((known[at] == mine).sum())


def sampled(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Return one of 16 `fingerprints`, chosen by themselves so that copies choose the same; all of short runs."""
    found = fingerprints(values)
    return found[found & np.uint64(15) == 0] if len(found) > 20_000 else found


def fingerprints(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Return fingerprints of stretches of rows that change, uint64, wherever in a run they lie.

    32 consecutive rows of several channels (128 of a single one) that agree in every digit are a copy, not chance;
    stretches in which most rows repeat (a machine that stands still) are left out.
    """
    length = 32 if values.shape[1] > 1 else 128
    count = len(values) - length + 1
    if count < 1:
        return np.zeros(0, dtype=np.uint64)
    bits = (np.where(np.isfinite(values), values, 0.0) + 0.0).view(np.uint64)
    rows = np.zeros(len(values), dtype=np.uint64)
    for i in range(values.shape[1]):
        rows = (rows ^ (bits[:, i] >> np.uint64(17)) ^ bits[:, i]) * np.uint64(0x9E3779B97F4A7C15)
        rows ^= rows >> np.uint64(29)
    changed = np.append(0, np.cumsum(rows[1:] != rows[:-1]))
    lively = changed[length - 1 :] - changed[:count] >= length // 2
    whole = np.zeros(count, dtype=np.uint64)
    for i in range(length):
        whole = whole * np.uint64(0xD6E8FEB86659FD93) + rows[i : i + count]
    return np.asarray(whole[lively])


def sizes(records: Sequence[Record], chosen: Sequence[SplitName]) -> Mapping[SplitName, int]:
    """Count groups on each side."""
    found: dict[SplitName, set[str]] = {"train": set(), "val": set(), "test": set()}
    for record, side in zip(records, chosen, strict=True):
        found[side].add(record.group)
    return {side: len(groups) for side, groups in found.items()}


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name[:60]}'" for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"

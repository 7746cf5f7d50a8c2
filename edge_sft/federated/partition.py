"""Cutting a pool of samples into sites: by group, by classes that differ, or as a file says. Pure functions.

The partition file is CSV with the columns ``id`` and ``site``: what was decided, committed before anything is trained.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence

import numpy as np

from edge_sft.errors import DataError, UserError

_DIRICHLET = re.compile(r"dirichlet\(\s*([0-9.]+)\s*\)")
COLUMNS = ("id", "site")


def by_group(groups: Mapping[str, str], sites: int, seed: int) -> dict[str, str]:
    """Give whole groups to sites, the largest first to the site with the fewest samples.

    Args:
        groups: Sample id → group.
        sites: How many.
        seed: Decides among groups of equal size.

    Raises:
        DataError: Fewer groups than sites.
    """
    names = names_of(sites)
    members: dict[str, list[str]] = {}
    for sample in sorted(groups):
        members.setdefault(groups[sample], []).append(sample)
    if len(members) < sites:
        raise DataError("the data", f"have {len(members)} groups for {sites} sites", "Take fewer sites.")
    drawn = np.random.default_rng(seed).permutation(sorted(members))
    load = dict.fromkeys(names, 0)
    found: dict[str, str] = {}
    for group in sorted(drawn.tolist(), key=lambda name: -len(members[name])):
        site = min(names, key=lambda name: load[name])
        load[site] += len(members[group])
        found |= dict.fromkeys(members[group], site)
    return found


def by_classes(
    labels: Mapping[str, str], sites: int, alpha: float, seed: int, *, least: int = 1, groups: Mapping[str, str] = {}
) -> dict[str, str]:
    """Give each class to sites by shares drawn from a Dirichlet distribution (Hsu et al. 2019).

    Args:
        labels: Sample id → label; of a group the most frequent one counts.
        sites: How many.
        alpha: Small = very different mixes, large = alike.
        seed: Of the shares and of who goes where.
        least: Groups of every class that every site gets, where there are so many: less can be learnt from by nobody.
        groups: Sample id → what must stay together; a sample without one is its own.

    Raises:
        UserError: ``alpha`` is not above 0.
    """
    if not alpha > 0:
        raise UserError(f"dirichlet({alpha:g})", "must be above 0", "Try dirichlet(0.5).")
    rng, names = np.random.default_rng(seed), names_of(sites)
    members: dict[str, list[str]] = {}
    for sample in sorted(labels):
        members.setdefault(groups.get(sample) or sample, []).append(sample)
    by_label: dict[str, list[str]] = {}
    for group, samples in members.items():
        told = [labels[sample] for sample in samples]
        by_label.setdefault(max(sorted(set(told)), key=told.count), []).append(group)
    found: dict[str, str] = {}
    for label in sorted(by_label):
        order = rng.permutation(by_label[label]).tolist()
        share = rng.dirichlet(np.full(sites, alpha))
        floor = min(least, len(order) // sites)
        ends = np.rint(np.cumsum(share) * (len(order) - floor * sites)).astype(int) + floor * np.arange(1, sites + 1)
        for name, first, last in zip(names, [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            for group in order[first:last]:
                found |= dict.fromkeys(members[group], name)
    return found


def parse(text: str) -> tuple[str, float]:
    """Read ``group``, ``dirichlet(0.5)`` or a path; returns the kind (or ``file``) and alpha. Raises UserError."""
    if text == "group":
        return "group", 0.0
    match = _DIRICHLET.fullmatch(text)
    if match:
        return "dirichlet", float(match.group(1))
    if text.endswith(".csv"):
        return "file", 0.0
    raise UserError(f"partition '{text}'", "is none", 'Say "group", "dirichlet(0.5)" or name a .csv file.')


def write(partition: Mapping[str, str]) -> str:
    """Return the partition file's text, by sample id."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(sorted(partition.items()))
    return text.getvalue()


def read(text: str, *, source: str) -> dict[str, str]:
    """Read a partition file. Raises DataError: other columns, a sample twice, an empty name."""
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows or any(row.get(column) in (None, "") for row in rows for column in COLUMNS):
        raise DataError(source, "is no partition file", f"Its columns are {', '.join(COLUMNS)}; no cell is empty.")
    found = {row["id"]: row["site"] for row in rows}
    if len(found) < len(rows):
        raise DataError(source, f"names {len(rows) - len(found)} samples twice", "Each sample is at one site.")
    return found


def names_of(sites: int) -> Sequence[str]:
    """Return ``site-1`` to ``site-N``. Raises UserError: no sites."""
    if sites < 1:
        raise UserError(f"{sites} sites", "are none", "Give at least 1.")
    return [f"site-{number}" for number in range(1, sites + 1)]

"""Parts to recordings: files of one run put one after the other, or side by side where each holds other channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edge_sft.data.sensors.columns import FILE, Part


def join(parts: Sequence[Part], run_setting: str) -> list[Part]:
    """Join the parts of one run where ``data.run`` is ``file:REGEX``; else a run lies in one file."""
    if not run_setting.startswith(FILE):
        return list(parts)
    together: dict[tuple[str, str, str], list[Part]] = {}
    for part in parts:
        together.setdefault((part.run or part.file, part.group, part.asset), []).append(part)
    return [_one(found) for found in together.values()]


def _one(parts: list[Part]) -> Part:
    ordered = sorted(parts, key=lambda part: (float(part.time.min()), part.file))
    name = ordered[0].run or ordered[0].file
    if len(ordered) == 1:
        return replace(ordered[0], file=name, run="")
    full = frozenset(range(ordered[0].values.shape[1]))
    held = [full - _absent(part) for part in ordered]
    beside = all(not (a & b) for i, a in enumerate(held) for b in held[i + 1 :])
    joined = _beside(ordered) if beside else _behind(ordered)
    missing = [set(part.missing) for part in ordered]
    shared = set.intersection(*missing) if beside else set.union(*missing)
    order = [channel for part in ordered for channel in part.missing]
    return replace(
        joined,
        file=name,
        run="",
        sha256=" ".join(part.sha256 for part in ordered),
        missing=tuple(dict.fromkeys(channel for channel in order if channel in shared)),
    )


def _absent(part: Part) -> frozenset[int]:
    return frozenset(np.flatnonzero(np.isnan(part.values).all(axis=0)).tolist()) if part.missing else frozenset()


def _behind(parts: Sequence[Part]) -> Part:
    labels = [part.labels for part in parts]
    rul = [part.rul for part in parts]
    return replace(
        parts[0],
        time=np.concatenate([part.time for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        labels=None
        if all(one is None for one in labels)
        else np.concatenate(
            [np.full(len(p.time), "", object) if one is None else one for p, one in zip(parts, labels, strict=True)]
        ),
        rul=None
        if all(one is None for one in rul)
        else np.concatenate(
            [np.full(len(p.time), np.nan) if one is None else one for p, one in zip(parts, rul, strict=True)]
        ),
    )


def _beside(parts: Sequence[Part]) -> Part:
    behind = _behind(parts)
    order = np.argsort(behind.time, kind="stable")
    time, values = behind.time[order], behind.values[order]
    first = np.flatnonzero(np.append(True, np.diff(time) > 0))
    row = np.searchsorted(time[first], time)
    merged = np.full((len(first), values.shape[1]), np.nan)
    at, channel = np.nonzero(np.isfinite(values))
    merged[row[at], channel] = values[at, channel]
    labels = None
    if behind.labels is not None:
        labels = np.full(len(first), "", dtype=object)
        told = behind.labels[order]
        some = np.flatnonzero(told != "")
        labels[row[some]] = told[some]
    rul = None
    if behind.rul is not None:
        rul = np.full(len(first), np.nan)
        told = behind.rul[order]
        some = np.flatnonzero(np.isfinite(told))
        rul[row[some]] = told[some]
    return replace(behind, time=time[first], values=merged, labels=labels, rul=rul)

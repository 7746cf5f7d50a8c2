"""Long rows (time, channel, value) to wide ones. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.sensors.tables import Column


@dataclass(frozen=True)
class Wide:
    """``time`` [n], ``values`` [n, C] with NaN where a channel said nothing, ``seen``: channels with any row."""

    time: NDArray[np.float64]
    values: NDArray[np.float64]
    seen: tuple[bool, ...]
    extra: dict[str, Column]


def pivot(
    time: NDArray[np.float64],
    channel: Column,
    value: NDArray[np.float64],
    names: Sequence[str],
    extra: Mapping[str, Column],
) -> Wide:
    """Put the values of one moment on one row.

    The file's order is kept (so that a clock that jumps back is seen) unless it is ordered channel by channel; then
    rows are sorted by time. Of two values of one channel at one moment the later in the file counts. ``extra``
    columns take the last cell of each moment.
    """
    place = {name: i for i, name in enumerate(names)}
    at = np.fromiter((place.get(name, -1) for name in channel), dtype=np.int32, count=len(channel))
    if _channel_by_channel(time, channel):
        order = np.argsort(time, kind="stable")
        time, at, value = time[order], at[order], value[order]
        extra = {key: column[order] for key, column in extra.items()}
    new = np.ones(len(time), dtype=bool)
    new[1:] = time[1:] != time[:-1]
    row = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(time)) - 1
    values = np.full((len(first), len(names)), np.nan)
    useful = np.zeros(len(first), dtype=bool)
    seen = []
    for i in range(len(names)):
        mine = np.flatnonzero(at == i)
        values[row[mine], i] = value[mine]
        useful[row[mine]] = True
        seen.append(len(mine) > 0)
    extra = {key: column[last] for key, column in extra.items()}
    if useful.all():
        return Wide(time[first], values, tuple(seen), extra)
    extra = {key: column[useful] for key, column in extra.items()}
    return Wide(time[first][useful], values[useful], tuple(seen), extra)


def _channel_by_channel(time: NDArray[np.float64], channel: Column) -> bool:
    """Tell whether time falls only where another channel begins: then it is the file's order, not the clock."""
    falls = np.flatnonzero(np.diff(time) < 0)
    return bool(len(falls)) and all(channel[i] != channel[i + 1] for i in falls) and not _clock_falls(time, channel)


def _clock_falls(time: NDArray[np.float64], channel: Column) -> bool:
    codes = {name: i for i, name in enumerate(dict.fromkeys(channel))}
    at = np.array([codes[name] for name in channel])
    order = np.argsort(at, kind="stable")
    same = np.diff(at[order]) == 0
    return bool((np.diff(time[order])[same] < 0).any())

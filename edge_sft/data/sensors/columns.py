"""From a table to parts: the rows of one run out of one file, in the recipe's channels, order and units."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.sensors import pivoting, times
from edge_sft.data.sensors.tables import Column, Table, Wanted
from edge_sft.errors import UserError
from edge_sft.sensor_recipe import SensorData, SensorRecipe

FILE, TIME = "file:", "time:"
_SPANS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


@dataclass(frozen=True)
class Part:
    """Rows of one run out of one file.

    ``run`` is what tells it apart inside the file (or, by ``file:REGEX``, over files), ``labels`` holds text, with ""
    for unknown; ``missing`` are the channels that the file has no column for; ``turned`` says that the file has the
    newest row first.
    """

    file: str
    run: str
    group: str
    asset: str
    sha256: str
    time: NDArray[np.float64] = field(repr=False)
    values: NDArray[np.float64] = field(repr=False)
    labels: Column | None = field(default=None, repr=False)
    rul: NDArray[np.float64] | None = field(default=None, repr=False)
    missing: tuple[str, ...] = ()
    turned: bool = False


def wanted(data: SensorData) -> Wanted:
    """Return the columns that a recipe's data section names."""
    named = (data.run, data.group, data.asset, data.label)
    texts = [column for column in named if column and not column.startswith((FILE, TIME))]
    long = data.layout == "long"
    channels = [data.value_column] if long else [channel.column or channel.name for channel in data.channels]
    return Wanted(
        numbers=tuple(dict.fromkeys([*channels, *([data.rul] if data.rul else [])])),
        texts=tuple(dict.fromkeys([*texts, *([data.channel_column] if long else [])])),
        times=(data.time,) if data.time else (),
        separator=data.separator,
    )


def parts_of(table: Table, recipe: SensorRecipe) -> list[Part] | str:
    """Cut a table into runs and bring its columns into the recipe's order and units.

    Returns:
        The parts, or why the table cannot be used, as a clause.
    """
    data = recipe.data
    lacking = [column for column in _needed(data) if column not in table.columns]
    if lacking:
        return f"has no column '{lacking[0]}'; its columns are {_listed(table.header)}"
    if data.layout == "wide" and not any((c.column or c.name) in table.columns for c in data.channels):
        return f"has none of the channels; its columns are {_listed(table.header)}"
    if not table.rows:
        return "has no rows"
    time = _time(table, recipe)
    known = np.isfinite(time)
    if not known.any():
        return f"has no readable time in column '{data.time}' (first: {str(table.columns[data.time][0])!r:.60})"
    keep = np.flatnonzero(known)
    found = list(_cut(table, data, time, keep))
    return found or "has no rows with a time"


def newest_first(time: NDArray[np.float64]) -> bool:
    """Tell whether rows lie from the newest to the oldest, as some historians export them: no clock runs like that."""
    steps = np.diff(time)
    down, up = int((steps < 0).sum()), int((steps > 0).sum())
    return down > 1 and 100 * up < down


def unbroken(rows: NDArray[np.intp]) -> NDArray[np.intp] | slice:
    """Return rising rows without a gap as a slice: what it takes lies in memory once."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def by_file(setting: str, name: str, key: str) -> str | None:
    """Apply ``file:REGEX`` to a file's name: its first group, else the whole match, else None.

    Raises:
        UserError: It is no regular expression.
    """
    try:
        regex = re.compile(setting.removeprefix(FILE))
    except re.error as error:
        raise UserError(f"data.{key}", f"is no regular expression ({error})", "Mend it in the recipe.") from error
    match = regex.search(name)
    if match is None:
        return None
    return (match.group(1) if regex.groups else match.group()) or None


def span_of(setting: str) -> float | None:
    """Return the length of ``time:7d`` blocks in seconds (a bare number: in the time column's unit), else None."""
    match = re.fullmatch(r"time:(\d+(?:\.\d+)?)([smhdw]?)", setting)
    if match is None or float(match.group(1)) == 0:
        return None
    return float(match.group(1)) * _SPANS.get(match.group(2), 1.0)


def canonical(cell: str) -> str:
    """Write a name or label in one way: 1.0 and 1 are the same."""
    plain = cell.strip()
    return plain[:-2] if plain.endswith(".0") and plain[:-2].lstrip("-").isdigit() else plain


def _needed(data: SensorData) -> Iterator[str]:
    if data.time:
        yield data.time
    if data.layout == "long":
        yield from (data.channel_column, data.value_column)
    for column in (data.run, data.group, data.asset):
        if column and not column.startswith((FILE, TIME)):
            yield column


def _time(table: Table, recipe: SensorRecipe) -> NDArray[np.float64]:
    data, period = recipe.data, recipe.window.period_s
    if data.time:
        return times.parse(table.columns[data.time], data.time_format, period)
    return np.arange(table.rows, dtype=np.float64) * period


def _cut(table: Table, data: SensorData, time: NDArray[np.float64], keep: NDArray[np.intp]) -> Iterator[Part]:
    keys = {name: _key(table, getattr(data, name), name) for name in ("run", "group", "asset")}
    for rows in _together([codes for codes, _ in keys.values() if codes is not None], keep):
        turned = newest_first(time[rows])
        run, group, asset = (names[0 if codes is None else codes[rows[0]]] for codes, names in keys.values())
        some = rows[::-1] if turned else unbroken(rows)
        yield replace(_part(table, data, time, some, run=run, group=group, asset=asset), turned=turned)


def _key(table: Table, setting: str, key: str) -> tuple[NDArray[np.int64] | None, list[str]]:
    """Return each row's code and the codes' names; one name for all rows where the codes are None."""
    if setting.startswith(FILE):
        return None, [by_file(setting, table.name, key) or ""]
    if not setting or setting.startswith(TIME):
        return None, [""]
    names, codes = _factorise(table.columns[setting])
    return codes, names


def _factorise(column: Column) -> tuple[list[str], NDArray[np.int64]]:
    known: dict[str, int] = {}
    raw: dict[str, int] = {}
    codes = np.empty(len(column), dtype=np.int64)
    for i, cell in enumerate(column):
        code = raw.get(cell)
        if code is None:
            code = raw[cell] = known.setdefault(canonical(cell), len(known))
        codes[i] = code
    return list(known), codes


def _together(codes: Sequence[NDArray[np.int64]], keep: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Yield the rows that agree in all codes, each in the file's order."""
    if not codes:
        yield keep
        return
    joined = np.zeros(len(keep), dtype=np.int64)
    for one in codes:
        joined = joined * (int(one.max()) + 1) + one[keep]
        joined = np.unique(joined, return_inverse=True)[1]
    order = np.argsort(joined, kind="stable")
    cuts = np.flatnonzero(np.diff(joined[order])) + 1
    yield from sorted(np.split(keep[order], cuts), key=lambda found: int(found[0]))


def _part(
    table: Table,
    data: SensorData,
    time: NDArray[np.float64],
    rows: NDArray[np.intp] | slice,
    *,
    run: str,
    group: str,
    asset: str,
) -> Part:
    extra: dict[str, Column] = {}
    if data.label and not data.label.startswith(FILE) and data.label in table.columns:
        extra["label"] = table.columns[data.label][rows]
    if data.rul and data.rul in table.columns:
        extra["rul"] = table.columns[data.rul][rows]
    names = [channel.column or channel.name for channel in data.channels]
    if data.layout == "long":
        channel = table.columns[data.channel_column][rows]
        pivoted = pivoting.pivot(time[rows], channel, table.columns[data.value_column][rows], names, extra)
        when, values, extra = pivoted.time, pivoted.values, pivoted.extra
        missing = tuple(c.name for c, seen in zip(data.channels, pivoted.seen, strict=True) if not seen)
    else:
        when = time[rows]
        values = np.full((len(when), len(names)), np.nan)
        for i, name in enumerate(names):
            if name in table.columns:
                values[:, i] = table.columns[name][rows]
        missing = tuple(c.name for c, name in zip(data.channels, names, strict=True) if name not in table.columns)
    return Part(
        file=table.name,
        run=run,
        group=group,
        asset=asset,
        sha256=table.sha256,
        time=when,
        values=values,
        labels=_labels(table, data, extra, len(when)),
        rul=extra.get("rul"),
        missing=missing,
    )


def _labels(table: Table, data: SensorData, extra: Mapping[str, Column], rows: int) -> Column | None:
    if data.label.startswith(FILE):
        return np.full(rows, by_file(data.label, table.name, "label") or "", dtype=object)
    if "label" not in extra:
        return None
    names, codes = _factorise(extra["label"])
    return np.array(names, dtype=object)[codes]


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(f"'{name[:40]}'" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown or "none"

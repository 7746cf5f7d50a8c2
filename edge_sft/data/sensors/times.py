"""The time column as numbers: seconds since 1970 of whatever form dates have, else the column's own unit."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.sensors.tables import Column

_CHUNK = 100_000
_OFFSET = re.compile(r"^(.*\d)\s*(Z|UTC|GMT|[+-]\d\d:?\d\d)$", re.IGNORECASE)
_PLANT = re.compile(
    r"^(\d{1,4})([./-])(\d{1,2})[./-](\d{2,4}),?"
    r"(?:[ T]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*([AaPp]\.?[Mm]\.?)?)?$"
)
EXCEL_1970 = 25569.0  # day number of 1970-01-01 in a spreadsheet
_EPOCHS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))  # at or above it, the number counts 1/unit seconds


def parse(
    column: Column, form: str = "auto", period_s: float = 1.0, *, day_first: bool | None = None
) -> NDArray[np.float64]:
    """Turn a time column into numbers.

    Args:
        column: float64, or text.
        form: ``data.time_format`` of the recipe. ``auto`` keeps numbers as they are, but takes what can only be
            milli-, micro- or nanoseconds since 1970 for that; ``index`` counts rows that are ``period_s`` apart;
            ``excel`` counts days as spreadsheets do, in local time as it is written.
        period_s: Step of the grid.
        day_first: What `is_day_first` said of a larger part of the column; None = told from this one.

    Returns:
        float64 [n], NaN where a cell is no time. Dates without an offset count as UTC.
    """
    if column.dtype == object and form != "iso":
        numeric = _all_numbers(column)
        column = column if numeric is None else numeric
    if column.dtype != object:
        return _scaled(column.astype(np.float64), form, period_s)
    if form in {"seconds", "milliseconds", "index", "excel"}:
        return np.full(len(column), np.nan)
    day_first = is_day_first(column) if day_first is None else day_first
    parts = [_chunk(column[i : i + _CHUNK].tolist(), day_first) for i in range(0, len(column), _CHUNK)]
    return np.concatenate(parts) if parts else np.zeros(0)


def moment(cell: str, form: str = "auto", period_s: float = 1.0) -> float:
    """Turn one cell into a time, as `parse` does."""
    return float(parse(np.array([cell.strip()], dtype=object), form, period_s)[0])


def _all_numbers(column: Column) -> NDArray[np.float64] | None:
    try:
        return np.array([cell or "nan" for cell in column], dtype=np.float64)
    except ValueError:
        return None


def _scaled(values: NDArray[np.float64], form: str, period_s: float) -> NDArray[np.float64]:
    if form == "iso":
        return np.full(len(values), np.nan)
    if form == "milliseconds":
        return values / 1000.0
    if form == "index":
        return values * period_s
    if form == "excel":
        return np.asarray(np.round((values - EXCEL_1970) * 86400.0, 3))
    if form == "auto" and len(values):
        with np.errstate(invalid="ignore"):
            size = np.abs(values[np.isfinite(values)])
        usual = float(np.median(size)) if len(size) else 0.0
        for least, unit in _EPOCHS:
            if usual >= least:
                return values / unit
    return values


def _chunk(cells: Sequence[str], day_first: bool) -> NDArray[np.float64]:
    shifts: NDArray[np.float64] | float = 0.0
    if any(cell[-1:] in "zZCcTt" or cell[-5:-4] in "+-" or cell[-6:-5] in "+-" for cell in cells if len(cell) > 12):
        split = [_OFFSET.match(cell) for cell in cells]
        shifts = np.array([0.0 if match is None else _seconds(match.group(2)) for match in split])
        cells = [cell if match is None else match.group(1) for cell, match in zip(cells, split, strict=True)]
    try:
        stamps = np.array([cell.replace(",", ".") for cell in cells], dtype="datetime64[us]")
    except ValueError:
        stamps = np.array([_one(cell, day_first) for cell in cells], dtype="datetime64[us]")
    seconds = stamps.astype(np.int64) / 1e6
    seconds[np.isnat(stamps)] = np.nan
    return np.asarray(seconds - shifts, dtype=np.float64)


def _seconds(offset: str) -> float:
    if offset[0] not in "+-":
        return 0.0
    digits = offset[1:].replace(":", "")
    return (1.0 if offset[0] == "+" else -1.0) * (int(digits[:2]) * 3600 + int(digits[2:]) * 60)


def _one(cell: str, day_first: bool) -> np.datetime64:
    try:
        return np.datetime64(cell.replace(",", "."), "us") if cell else np.datetime64("NaT", "us")
    except ValueError:
        pass
    match = _PLANT.match(cell)
    if match is None:
        return np.datetime64("NaT", "us")
    first, sign, second, third, hour, minute, second_of, fraction, half = match.groups()
    if len(first) == 4:
        year, month, day = first, second, third
    else:
        year = third if len(third) == 4 else f"20{third}"
        day, month = (first, second) if day_first or sign == "." else (second, first)
    clock = int(hour or 0) % 12 + (12 if half[0] in "pP" else 0) if half else int(hour or 0)
    text = f"{year}-{int(month):02d}-{int(day):02d}T{clock:02d}:{minute or '00'}:{second_of or '00'}.{fraction or '0'}"
    try:
        return np.datetime64(text, "us")
    except ValueError:
        return np.datetime64("NaT", "us")


def is_day_first(column: Column) -> bool:
    """Tell 3/9/2020 from 9/3/2020 by the dates that can be only one of them, else by which makes time run on."""
    step = max(1, len(column) // 2000)
    found = [match for cell in column[::step] if (match := _PLANT.match(cell)) and len(match.group(1)) < 4]
    firsts = [int(match.group(1)) for match in found]
    seconds = [int(match.group(3)) for match in found]
    if not found or max(firsts) > 12:
        return True
    if max(seconds) > 12:
        return False
    if all(match.group(9) and match.group(2) == "/" for match in found) and len(set(firsts)) == len(set(seconds)) == 1:
        return False  # one single day, with AM and PM: who writes these writes the month first
    as_day_first = np.array([31 * second + first for first, second in zip(firsts, seconds, strict=True)])
    as_month_first = np.array([31 * first + second for first, second in zip(firsts, seconds, strict=True)])
    return bool(np.abs(np.diff(as_day_first)).sum() <= np.abs(np.diff(as_month_first)).sum())

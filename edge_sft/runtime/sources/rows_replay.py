"""A recording played again at any speed: CSV (also .gz) or NPZ, one file an asset, or a column that names the asset.

Files are played at the same time, each from its own beginning. A restart goes on behind the rows that were kept; a
recording that was played to its end begins anew.
"""

from __future__ import annotations

import contextlib
import csv
import heapq
import math
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.sensors import csv_tables, times
from edge_sft.data.sensors.tables import decimal_sign, number
from edge_sft.errors import DataError, UserError
from edge_sft.prediction import Rows, Sample
from edge_sft.runtime.config import RowsFromFile
from edge_sft.runtime.sources.protocol import SourceEnded, SourceStatus
from edge_sft.runtime.sources.rowtime import to_seconds

CURSOR = "cursor"
_SUFFIXES = (".csv", ".csv.gz", ".npz")
_LATE_MAX_S = 1.0  # a machine that was busy does not get more than this in one burst


@dataclass(frozen=True, order=True)
class _Piece:
    """Rows of one asset; ``due_s`` is when they are over, on the recording's own clock."""

    due_s: float
    file: int
    number: int
    rows: Rows


class RowsReplay:
    """Source over recordings. Its Samples' names count the pieces, so that a restart knows where it was."""

    live = False

    def __init__(self, config: RowsFromFile, paths: list[Path], stream: str, state: Path) -> None:
        self._config = config
        self._paths = paths
        self._stream = stream
        self._memory = state / CURSOR
        self._closed = threading.Event()
        self._pieces, self._count = self._begin(_remembered(self._memory))
        self._waiting: _Piece | None = None
        self._started_s: float | None = None

    def _begin(self, after: int) -> tuple[Iterator[_Piece], int]:
        pieces = self._merged()
        skipped = sum(1 for _ in zip(range(after), pieces))  # noqa: B905  # as far as there are any
        peeked = next(pieces, None)
        if peeked is None and not after:
            where = ", ".join(str(path) for path in self._paths[:3])
            raise DataError(where, "holds no rows to play", "Give a recording with rows behind its header.")
        if peeked is None:
            return self._merged(), 0
        return _chained(peeked, pieces), skipped

    def _merged(self) -> Iterator[_Piece]:
        return heapq.merge(*(_played(path, index, self._config) for index, path in enumerate(self._paths)))

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next rows when they are due."""
        if self._waiting is None:
            self._waiting = next(self._pieces, None)
            if self._waiting is None:
                raise SourceEnded
        if not self._is_due(self._waiting, timeout_s):
            return None
        piece, self._waiting = self._waiting, None
        self._count += 1
        return Sample(piece.rows, datetime.now(timezone.utc), time.monotonic(), self._stream, name=str(self._count))

    def _is_due(self, piece: _Piece, timeout_s: float) -> bool:
        if self._closed.is_set():
            return False
        if not self._config.speed:
            return True
        now_s = time.monotonic()
        due_s = piece.due_s / self._config.speed
        if self._started_s is None:
            self._started_s = now_s - due_s
        self._started_s = max(self._started_s, now_s - due_s - _LATE_MAX_S)
        left_s = self._started_s + due_s - now_s
        if left_s > 0:
            self._closed.wait(min(left_s, timeout_s))
        return left_s <= timeout_s and not self._closed.is_set()

    def settle(self, samples: Iterable[Sample]) -> None:
        """Remember how far it was."""
        names = [sample.name for sample in samples if sample.name]
        if names:
            with contextlib.suppress(OSError):  # the raw ring knows it as well
                self._memory.parent.mkdir(parents=True, exist_ok=True)
                beside = self._memory.with_suffix(".part")
                beside.write_text(names[-1], encoding="ascii")
                beside.replace(self._memory)

    @property
    def status(self) -> SourceStatus:
        """Always there."""
        return SourceStatus(True)

    def close(self) -> None:
        """Stop a read that waits."""
        self._closed.set()


def open_source(config: RowsFromFile, *, stream: str, state: Path) -> RowsReplay:
    """Find the recordings. Raises UserError when there are none, DataError when one is none."""
    path = config.path
    if path.is_dir():
        paths = sorted(p for p in path.iterdir() if p.name.endswith(_SUFFIXES) and fnmatch(p.name, config.pattern))
    else:
        paths = [path] if path.is_file() else []
    if not paths:
        raise UserError(str(path), "holds no recording", f"Give a file, or a folder, of {', '.join(_SUFFIXES)}.")
    return RowsReplay(config, paths, stream, state)


def remember(state: Path, cursor: str) -> None:
    """Put down where a recording goes on, in the folder that `open_source` gets as ``state``."""
    if cursor:
        state.mkdir(parents=True, exist_ok=True)
        (state / CURSOR).write_text(cursor, encoding="ascii")


def _remembered(path: Path) -> int:
    try:
        return max(0, int(path.read_text(encoding="ascii")))
    except (OSError, ValueError):
        return 0


def _chained(first: _Piece, others: Iterator[_Piece]) -> Iterator[_Piece]:
    yield first
    yield from others


def _played(path: Path, index: int, config: RowsFromFile) -> Iterator[_Piece]:
    """Yield one file's rows with a clock that starts at 0 and never goes back."""
    clock_s, newest = 0.0, math.nan
    tables = _npz(path, config) if path.name.endswith(".npz") else _csv(path, config)
    for piece, rows in enumerate(tables):
        last = float(rows.time_s[-1])
        if math.isfinite(last):
            clock_s += max(0.0, last - newest) if math.isfinite(newest) else 0.0
            newest = last
        yield _Piece(clock_s, index, piece, rows)


def _csv(path: Path, config: RowsFromFile) -> Iterator[Rows]:
    """Yield a table's rows: of any separator, decimal sign and form of dates, as training reads them."""
    peeked = csv_tables.peek(path, config.separator)
    if isinstance(peeked, str):
        raise DataError(str(path), peeked, "Check the file.")
    shape, first = peeked
    header = list(shape.header)
    columns = _columns(path, header, config)
    at = [header.index(column) for column in columns.values()]
    comma = {index: decimal_sign([row[index] for row in first]) == "," for index in at}
    clock = _Clock(header.index(config.time), first, config) if config.time else None
    who = header.index(config.asset) if config.asset else None
    current = name = _stem(path)
    held: list[list[str]] = []
    row = 0

    def rows() -> Rows:
        cells = [[_cell(line, index, comma[index]) for index in at] for line in held]
        values: NDArray[np.float64] = np.array(cells, dtype=np.float64)
        steps: NDArray[np.float64] = np.arange(row - len(held), row, dtype=np.float64) * config.step
        return Rows(current, steps if clock is None else clock.of(held), values, tuple(columns))

    try:
        for line in csv_tables.stream(path, shape):
            asset = line[who] if who is not None and who < len(line) else name
            if held and (asset != current or len(held) >= config.rows):
                yield rows()
                held = []
            current = asset
            held.append(line)
            row += 1
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise DataError(str(path), f"cannot be read ({error})", "Check the file.") from error
    if held:
        yield rows()


class _Clock:
    """The times of a table's rows; what its first rows say of 3/9/2020 holds for all."""

    def __init__(self, index: int, first: Sequence[Sequence[str]], config: RowsFromFile) -> None:
        self._index = index
        self._form = config.time_format
        self._day_first = times.is_day_first(np.array([row[index] for row in first], dtype=object))

    def of(self, lines: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        cells = np.array([line[self._index].strip() if self._index < len(line) else "" for line in lines], dtype=object)
        if self._form == "number":
            return np.array([to_seconds(cell, "number") for cell in cells])
        return times.parse(cells, self._form, day_first=self._day_first)


def _npz(path: Path, config: RowsFromFile) -> Iterator[Rows]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"cannot be read as NPZ ({error})", "Give one array a channel.") from error
    columns = _columns(path, list(arrays), config)
    values: NDArray[np.float64] = np.stack([np.asarray(arrays[name], np.float64) for name in columns.values()], axis=1)
    moments: NDArray[np.float64] = np.arange(len(values), dtype=np.float64) * config.step
    if config.time:
        moments = np.array([to_seconds(one, config.time_format) for one in arrays[config.time].tolist()])
    assets = arrays[config.asset].astype(str) if config.asset else np.full(len(values), _stem(path))
    begins = np.flatnonzero(assets[1:] != assets[:-1]) + 1
    for start, stop in zip([0, *begins.tolist()], [*begins.tolist(), len(values)], strict=True):
        for at in range(start, stop, config.rows):
            part = slice(at, min(at + config.rows, stop))
            yield Rows(str(assets[start]), moments[part], values[part], tuple(columns))


def _columns(path: Path, header: list[str], config: RowsFromFile) -> dict[str, str]:
    """Return channel → column. A column that is not there is left out: the pipeline tells that it is missing."""
    for what in (config.time, config.asset):
        if what and what not in header:
            raise DataError(str(path), f"has no column '{what}'", f"It has: {', '.join(header[:50])}.")
    if not config.fields:
        return {name: name for name in header if name not in (config.time, config.asset)}
    found = {channel: column for channel, column in config.fields.items() if column in header}
    if not found:
        wanted = ", ".join(config.fields.values())
        raise DataError(str(path), f"has none of the columns {wanted}", f"It has: {', '.join(header[:50])}.")
    return found


def _cell(line: Sequence[str], index: int, comma: bool) -> float:
    if index >= len(line):
        return math.nan
    if not comma:
        try:
            return float(line[index])
        except ValueError:
            pass
    value = number(line[index], "," if comma else "")
    return math.nan if value is None else value


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]

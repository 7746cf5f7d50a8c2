"""The raw ring: rows as they came, on disk, bounded. What a restart goes on from and a new model is warmed with.

    <folder>/rows-00000042.log     records, each with length and CRC-32; a torn one ends its file
    <folder>/rows-00000043.log     a process never appends to a file that another one began

A record is written before its message is acknowledged and before it is decided. A killed process loses nothing of
what it wrote; a power cut loses what came since the last `sync`. Where the disk refuses, rows go on unkept: it is
told once, and tried again.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from edge_sft.prediction import Rows

_HEAD = struct.Struct("<IIB")  # size of the body, CRC-32 of kind and body, kind
_ROWS, _CHANNELS, _MARK = 1, 2, 3
_START = struct.Struct("<dHI")  # when it came (UTC seconds), length of the cursor, number of Rows
_ONE = struct.Struct("<HHI")  # length of the asset's name, number of the channel set, rows
_PLACE = struct.Struct("<QQ")
_RETRY_S = 5.0
_BIGGEST = 64 << 20  # of one record: more is damage, not rows


class Position(NamedTuple):
    """A place between two records."""

    segment: int
    offset: int


@dataclass(frozen=True)
class Kept:
    """One record of rows.

    Attributes:
        end: The place behind it.
        received_s: When it came, UTC seconds.
        cursor: Where the source was after it, in its own words; empty = it has no such thing.
        rows: In order of arrival.
    """

    end: Position
    received_s: float
    cursor: str
    rows: list[Rows]


class RowLog:
    """Appended to by one thread, marked and trimmed by another, read by any.

    Args:
        folder: Its own.
        ring_bytes: How much is kept at least for warming a new model; what a restart needs is kept in any case.
        tell: Told (kind, sentence) when the disk refuses, and when it takes rows again.
        segment_bytes: Size of one file.

    Attributes:
        marked: Everything before it was decided and is in the journal, as the last process noted; None = unknown.
        cursor: Of the newest record.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ring_bytes: int,
        tell: Callable[[str, str], None],
        segment_bytes: int = 4 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self._ring_bytes = ring_bytes
        self._segment_bytes = segment_bytes
        self._tell = tell
        self._clock = clock
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._sets: dict[tuple[str, ...], int] = {}
        self._retry_at_s = 0.0
        self._trouble = ""
        numbers = self._numbers()
        self._number = (numbers[-1] + 1) if numbers else 0
        self._offset = 0
        self.marked, self.cursor = self._last_words(numbers)

    # --- writing ---------------------------------------------------------------------------------------------

    @property
    def end(self) -> Position:
        """The place behind the newest record."""
        return Position(self._number, self._offset)

    def append(self, batch: Sequence[Rows], *, cursor: str = "", received_s: float) -> Position | None:
        """Write rows; returns the place behind them, None when the disk refused. Never raises for the disk's sake."""
        with self._lock:
            if not self._ready():
                return None
            try:
                self._write(self._encoded(batch, cursor, received_s))
            except OSError as error:
                self._refused(error)
                return None
            self.cursor = cursor
            return self.end

    def mark(self, position: Position) -> None:
        """Note that everything before a place was decided and is in the journal."""
        with self._lock:
            if self._ready():
                try:
                    self._write(_record(_MARK, _PLACE.pack(*position)))
                    self.marked = position
                except OSError as error:
                    self._refused(error)

    def sync(self) -> None:
        """Force what was written to the disk."""
        with self._lock:
            handle = os.dup(self._file.fileno()) if self._file is not None else None
        if handle is None:
            return
        try:
            os.fsync(handle)
        except OSError as error:
            with self._lock:
                self._refused(error)
        finally:
            os.close(handle)

    def trim(self, needed: Position) -> None:
        """Delete the oldest files beyond the ring's size, none of which holds what comes after ``needed``."""
        numbers = self._numbers()
        sizes = {number: self._size(number) for number in numbers}
        for number in numbers:
            if number >= min(needed.segment, self._number) or sum(sizes.values()) <= self._ring_bytes:
                return
            self._path(number).unlink(missing_ok=True)
            del sizes[number]

    def close(self) -> None:
        """Force it to the disk and close; closing twice is harmless."""
        self.sync()
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None
            self._retry_at_s = float("inf")

    def _ready(self) -> bool:
        if self._file is not None and self._offset < self._segment_bytes:
            return True
        if self._clock() < self._retry_at_s:
            return False
        try:
            self._begin()
        except OSError as error:
            self._refused(error)
            return False
        if self._trouble:
            self._trouble = ""
            self._tell("rows_kept_again", "the disk takes rows again: a restart goes on where it was")
        return True

    def _begin(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._number += 1
        elif self._offset:
            self._number += 1  # the last one ended in the middle of a record
        self._offset = 0
        self._sets = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = self._path(self._number).open("xb", buffering=0)

    def _refused(self, error: OSError) -> None:
        self._retry_at_s = self._clock() + _RETRY_S
        if self._file is not None:
            self._file.close()
            self._file = None
            self._offset = max(self._offset, 1)
        if not self._trouble:
            self._trouble = error.strerror or str(error)
            self._tell(
                "rows_not_kept",
                f"rows cannot be kept in {self.folder} ({self._trouble}): decisions go on, a restart begins anew",
            )

    def _write(self, content: bytes) -> None:
        assert self._file is not None
        written = self._file.write(content)
        if written != len(content):
            raise OSError(28, "No space left on device")
        self._offset += len(content)

    def _encoded(self, batch: Sequence[Rows], cursor: str, received_s: float) -> bytes:
        records: list[bytes] = []
        name = cursor.encode()
        parts = [_START.pack(received_s, len(name), len(batch)), name]
        for rows in batch:
            number = self._sets.get(rows.channels)
            if number is None:
                number = self._sets[rows.channels] = len(self._sets)
                records.append(_record(_CHANNELS, json.dumps([number, rows.channels]).encode()))
            asset = rows.asset.encode()
            parts += [_ONE.pack(len(asset), number, len(rows.time_s)), asset]
            parts += [np.ascontiguousarray(rows.time_s, np.float64).tobytes()]
            parts += [np.ascontiguousarray(rows.values, np.float64).tobytes()]
        return b"".join([*records, _record(_ROWS, b"".join(parts))])

    # --- reading ---------------------------------------------------------------------------------------------

    def read(self, after: Position | None = None, until: Position | None = None) -> Iterator[Kept]:
        """Yield what was written after one place up to another, oldest first; damage skips the rest of its file."""
        stop = self.end if until is None else until
        for number in self._numbers():
            if (after is not None and number < after.segment) or number > stop.segment:
                continue
            yield from self._segment(number, after, stop)

    def newest(self, records: int) -> list[Rows]:
        """Return the rows of the newest records."""
        kept: list[Kept] = []
        for number in reversed(self._numbers()):
            kept = [*self._segment(number, None, self.end), *kept]
            if len(kept) >= records:
                break
        return [rows for one in kept[-records:] for rows in one.rows]

    def _segment(self, number: int, after: Position | None, until: Position) -> Iterator[Kept]:
        sets: dict[int, tuple[str, ...]] = {}
        for kind, body, offset in _records(self._content(number)):
            end = Position(number, offset)
            if end > until:
                return
            if kind == _CHANNELS:
                index, names = json.loads(body)
                sets[index] = tuple(names)
            elif kind == _ROWS and (after is None or end > after):
                yield _decoded(body, sets, end)

    def _last_words(self, numbers: list[int]) -> tuple[Position | None, str]:
        """Return the newest mark and the newest cursor of earlier processes."""
        marked: Position | None = None
        cursor: str | None = None
        for number in reversed(numbers):
            for kind, body, _ in reversed(list(_records(self._content(number)))):
                if kind == _MARK and marked is None:
                    marked = Position(*_PLACE.unpack(body))
                elif kind == _ROWS and cursor is None:
                    _, length, _ = _START.unpack_from(body)
                    cursor = body[_START.size : _START.size + length].decode()
            if marked is not None and cursor is not None:
                break
        return marked, cursor or ""

    def _content(self, number: int) -> bytes:
        try:
            return self._path(number).read_bytes()
        except OSError:
            return b""

    def _numbers(self) -> list[int]:
        found = (path.stem.removeprefix("rows-") for path in self.folder.glob("rows-*.log"))
        return sorted(int(one) for one in found if one.isdecimal())

    def _path(self, number: int) -> Path:
        return self.folder / f"rows-{number:08d}.log"

    def _size(self, number: int) -> int:
        try:
            return self._path(number).stat().st_size
        except OSError:
            return 0


def _record(kind: int, body: bytes) -> bytes:
    return _HEAD.pack(len(body), zlib.crc32(body, kind), kind) + body


def _records(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield (kind, body, offset behind it) until the content ends or is damaged."""
    at = 0
    while at + _HEAD.size <= len(content):
        size, crc, kind = _HEAD.unpack_from(content, at)
        body = content[at + _HEAD.size : at + _HEAD.size + size]
        if size > _BIGGEST or len(body) != size or zlib.crc32(body, kind) != crc:
            return
        at += _HEAD.size + size
        yield kind, body, at


def _decoded(body: bytes, sets: dict[int, tuple[str, ...]], end: Position) -> Kept:
    received_s, length, count = _START.unpack_from(body)
    at = _START.size
    cursor = body[at : at + length].decode()
    at += length
    batch: list[Rows] = []
    for _ in range(count):
        name, number, rows = _ONE.unpack_from(body, at)
        at += _ONE.size
        asset = body[at : at + name].decode()
        at += name
        channels = sets[number]
        times = np.frombuffer(body, np.float64, rows, at)
        at += times.nbytes
        values = np.frombuffer(body, np.float64, rows * len(channels), at).reshape(rows, len(channels))
        at += values.nbytes
        batch.append(Rows(asset, times, values, channels))
    return Kept(end, received_s, cursor, batch)

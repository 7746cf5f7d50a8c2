"""CSV as loggers, historians and spreadsheets write it: any separator, decimal commas, lines above the header."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.sensors.tables import (
    NOTHING,
    Column,
    Table,
    Told,
    Wanted,
    decimal_sign,
    number,
    resolve,
    sha256_of,
    unheard,
)

_LOOK = 60  # lines looked at to find separator and header
_CHUNK = 50_000  # rows turned into numbers at once: memory stays near that of the numbers
_SAMPLE = 1 << 16  # bytes that tell the encoding
_SEPARATORS = (";", "\t", "|", ",")  # comma last: it may be a decimal sign


@dataclass(frozen=True)
class Shape:
    """How a file is laid out: its separator (a blank = runs of blanks), header and the lines before the first row."""

    separator: str
    header: tuple[str, ...]
    skip: int
    units: dict[str, str]


def read(path: Path, name: str, wanted: Wanted, told: Told = unheard) -> list[Table] | str:
    """Read a CSV file, gzipped or not; see `edge_sft.data.sensors.tables.read_tables`."""
    digest = sha256_of(path)
    try:
        with opened(path) as file:
            shape = look(list(islice(file, _LOOK)), wanted.separator)
        if isinstance(shape, str):
            return shape
        with opened(path) as file:
            for _ in range(shape.skip):
                file.readline()
            return [_read(file, name, digest, shape, wanted, told)]
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return "is damaged or truncated: its gzip stream does not end"
    except csv.Error as error:
        return f"is no CSV ({error})"


def peek(path: Path, separator: str = "") -> tuple[Shape, list[list[str]]] | str:
    """Return a file's shape and its first rows; text where it cannot be read."""
    try:
        if path.stat().st_size == 0:
            return "is an empty file"
        with opened(path) as file:
            lines = list(islice(file, _LOOK + 400))
    except (OSError, EOFError, zlib.error) as error:
        return f"cannot be read ({error})"
    shape = look(lines[:_LOOK], separator)
    if isinstance(shape, str):
        return shape
    rows = [row for row in _rows(iter(lines[shape.skip :]), shape.separator) if len(row) == len(shape.header)]
    return shape, rows


def stream(path: Path, shape: Shape) -> Iterator[list[str]]:
    """Yield a file's rows behind its header, as cells. Raises OSError, EOFError, zlib.error or csv.Error."""
    with opened(path) as file:
        for _ in range(shape.skip):
            file.readline()
        yield from _rows(file, shape.separator)


def look(lines: Sequence[str], separator: str = "") -> Shape | str:
    """Find separator, header and first row in a file's first lines; text where there is no table."""
    if not any(line.strip() for line in lines):
        return "holds nothing but empty lines"
    if any("\0" in line for line in lines):
        return "is no text: it holds zero bytes"
    if lines[0].lower().startswith("sep=") and len(lines[0].strip()) == 5:  # Excel's own mark
        separator = separator or lines[0].strip()[4]
    separator = separator or _find_separator(lines)
    rows = [next(iter(_rows(iter([line]), separator)), []) for line in lines]
    width = Counter(len(row) for row in rows if row).most_common(1)[0][0]
    first = next(i for i, row in enumerate(rows) if len(row) == width)
    head = [cell.strip().lstrip("\ufeff#").strip() for cell in rows[first]]
    if _words(head) * 2 < len(head) or len(set(head)) < len([cell for cell in head if cell]):
        if _words(head) == 0 or len(set(head)) < len(head) / 2:
            return Shape(separator, tuple(str(i + 1) for i in range(width)), first, {})
    header = tuple(cell or f"column {i + 1}" for i, cell in enumerate(_distinct(head)))
    below = rows[first + 1] if first + 1 < len(rows) else []
    if len(below) == width and _words(below) and not _values(below):
        return Shape(separator, header, first + 2, {h: c.strip(" []()") for h, c in zip(header, below, strict=True)})
    return Shape(separator, header, first + 1, {})


def opened(path: Path) -> TextIO:
    """Open a CSV file as text, gzipped or not, in the encoding that its beginning shows."""
    with path.open("rb") as packed:
        gzipped = packed.read(2) == b"\x1f\x8b"
    stream: Any = gzip.GzipFile(path) if gzipped else path.open("rb")
    start = stream.read(_SAMPLE)
    stream.seek(0)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    else:
        encoding = "utf-8-sig"
        try:
            # a sample may end within a character
            codecs.getincrementaldecoder("utf-8-sig")().decode(start, final=len(start) < _SAMPLE)
        except UnicodeDecodeError:
            encoding = "cp1252"  # what loggers on Windows write: ° and µ
    return io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline="")


def _find_separator(lines: Sequence[str]) -> str:
    body = [line for line in lines if line.strip()]
    best, best_share = ",", 0.0
    for separator in _SEPARATORS:
        counts = Counter(len(row) for row in _rows(iter(body), separator))
        width, often = counts.most_common(1)[0] if counts else (0, 0)
        share = often / len(body)
        if width > 1 and share > best_share + 0.05:
            best, best_share = separator, share
    if best_share == 0.0 and all(len(line.split()) > 1 for line in body):
        return " "
    return best


def _rows(lines: Iterator[str], separator: str) -> Iterator[list[str]]:
    if separator == " ":
        return (line.split() for line in lines if line.strip())
    return (row for row in csv.reader(lines, delimiter=separator) if row)


def _words(cells: Sequence[str]) -> int:
    return sum(1 for cell in cells if cell.strip() and number(cell) is None and not cell.strip()[:1].isdigit())


def _values(cells: Sequence[str]) -> int:
    """Count cells that are a number or begin like a date."""
    return sum(1 for cell in cells if cell.strip().lower() not in NOTHING and cell.strip().lstrip("+-.")[:1].isdigit())


def _distinct(names: Sequence[str]) -> list[str]:
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(f"{name}.{seen[name] - 1}" if name and seen[name] > 1 else name)
    return result


@dataclass
class _Gathered:
    """One column while it is being read: chunks, and what was no number."""

    kind: str  # "number", "text" or "time" until the first chunk decides
    chunks: list[Column] = field(default_factory=list)
    unread: int = 0
    example: str = ""
    decimal: str = ""  # its sign, once a cell told

    def add(self, cells: Sequence[str]) -> None:
        if self.kind == "time":
            self.kind = "text" if any(number(cell) is None for cell in cells) else "number"
        if self.kind == "text":
            self.chunks.append(np.array([sys.intern(cell.strip()) for cell in cells], dtype=object))
            return
        self.chunks.append(self._numbers(cells))

    def _numbers(self, cells: Sequence[str]) -> NDArray[np.float64]:
        try:
            if self.decimal == ",":
                raise ValueError  # "1.234" may be a thousand
            values = np.array(cells, dtype=np.float64)
        except ValueError:
            self.decimal = self.decimal or decimal_sign(cells)
            read = [number(cell, self.decimal) for cell in cells]
            failed = [cell for cell, value in zip(cells, read, strict=True) if value is None]
            self.unread += len(failed)
            self.example = self.example or (failed[0].strip()[:60] if failed else "")
            values = np.array([np.nan if value is None else value for value in read], dtype=np.float64)
        values[~np.isfinite(values)] = np.nan
        return values

    def whole(self) -> Column:
        made = np.concatenate(self.chunks) if self.chunks else np.zeros(0)
        self.chunks.clear()  # one column at a time lies in memory twice
        return made


def _read(file: TextIO, name: str, digest: str, shape: Shape, wanted: Wanted, told: Told) -> Table:
    places = {column: resolve(column, shape.header) for column in wanted.names}
    index = {column: shape.header.index(found) for column, found in places.items() if found is not None}
    gathered = {column: _Gathered(_kind(column, wanted)) for column in index}
    width, broken, rows = len(shape.header), 0, 0
    reader = _rows(iter(file), shape.separator)
    while chunk := list(islice(reader, _CHUNK)):
        whole = [row for row in chunk if len(row) == width]
        if len(whole) < len(chunk):
            whole = [row for found in chunk if (row := _mended(found, width)) is not None]
            broken += len(chunk) - len(whole)
        rows += len(whole)
        for column, place in index.items():
            gathered[column].add([row[place] for row in whole])
        told(rows)
    return Table(
        name=name,
        sha256=digest,
        rows=rows,
        columns={column: one.whole() for column, one in gathered.items()},
        header=shape.header,
        units=shape.units,
        unread={column: (one.unread, one.example) for column, one in gathered.items() if one.unread},
        broken=broken,
    )


def _kind(column: str, wanted: Wanted) -> str:
    return "time" if column in wanted.times else "text" if column in wanted.texts else "number"


def _mended(row: list[str], width: int) -> list[str] | None:
    """Take away separators too many at a row's end; other rows of another width cannot be trusted."""
    while len(row) > width and not row[-1].strip():
        row = row[:-1]
    return row if len(row) == width else None

"""A record that cannot be changed unnoticed: JSON lines, each of which names the SHA-256 of the line before.

Whoever keeps the last line's digest (a site keeps the coordinator's, the coordinator each site's) can tell later
whether anything before it was changed, dropped or put in.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from edge_sft.durable import disk_error, sync_directory

PREVIOUS = "prev"


@dataclass(frozen=True)
class Chain:
    """What a record holds.

    Attributes:
        records: The lines that are JSON objects, in order, whether or not the chain holds.
        head: SHA-256 (hex) of the last whole line; "" without lines.
        broken: The first place where the chain does not hold, in words; "" where all of it does.
    """

    records: tuple[dict[str, Any], ...]
    head: str
    broken: str

    @property
    def holds(self) -> bool:
        """Whether every line follows from the one before."""
        return not self.broken


def check(path: Path) -> Chain:
    """Read a record and follow its chain; a missing file is an empty one.

    A last line without its newline was being written when the power went: it is left out, and breaks nothing.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Chain((), "", "")
    records: list[dict[str, Any]] = []
    head, broken = "", ""
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        record = _parsed(line)
        if record is None:
            broken = broken or f"line {number} is no JSON object"
        else:
            if record.get(PREVIOUS) != head:
                broken = broken or _missing(number)
            records.append(record)
        head = sha256(line).hexdigest()
    return Chain(tuple(records), head, broken)


def append(path: Path, record: Mapping[str, Any]) -> str:
    """Write one line so that it survives a power cut; one writer at a time.

    Args:
        path: The record; made when missing. Half a line that a killed writer left is cut off first.
        record: What JSON can hold; ``prev`` is added.

    Returns:
        The new line's SHA-256 (hex).

    Raises:
        DeviceError: The disk refuses.
        ValueError: A number is NaN or infinite, which JSON does not have.
    """
    line = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not path.exists()
        with path.open("ab+") as file:
            end, last = _whole(file)
            linked = {PREVIOUS: sha256(last).hexdigest() if last else "", **record}
            line = json.dumps(linked, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            file.truncate(end)
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            sync_directory(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error
    return sha256(line.encode()).hexdigest()


def _whole(file: Any, block: int = 1 << 16) -> tuple[int, bytes]:
    """Return where the last whole line ends, and that line without its newline."""
    size = file.seek(0, os.SEEK_END)
    tail, start = b"", size
    while start > 0 and tail.count(b"\n") < 2:
        start = max(0, start - block)
        file.seek(start)
        tail = file.read(size - start)
    whole, newline, _ = tail.rpartition(b"\n")
    if not newline:
        return 0, b""
    return start + len(whole) + 1, whole.rpartition(b"\n")[2]


def _parsed(line: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):  # UnicodeDecodeError is one too
        value = json.loads(line)
        if isinstance(value, dict):
            return value
    return None


def _missing(number: int) -> str:
    if number == 1:
        return "line 1 names a line before it: the beginning is missing"
    return f"line {number} does not follow from line {number - 1}: one of the two was changed, or lines are missing"

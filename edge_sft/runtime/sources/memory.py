"""Which files of a folder were decided already: an append-only file that survives kill and power cut."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Container
from pathlib import Path

from edge_sft import durable

Signature = tuple[int, int]
"""Size in bytes and time of change in nanoseconds."""

# A killed process loses nothing of what it wrote; only a power cut can, and then pictures are decided again. So
# flash is spared: the disk is forced at most so often.
_SYNC_S = 1.0
# Rewrite the file once it holds this many more lines than files that still exist.
_SLACK_LINES = 10_000


class SeenFiles:
    """Names and signatures, in memory and on disk. Thread-safe.

    A torn last line (power cut) is ignored: that picture is decided again, never forgotten.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._unwritten: list[str] = []
        self._synced_s = 0.0
        self._seen, self._lines = _read(path)

    def get(self, name: str) -> tuple[Signature, ...]:
        """Return the signature under which a name was decided: none or one."""
        with self._lock:
            found = self._seen.get(name)
        return () if found is None else (found,)

    def add(self, done: list[tuple[str, Signature]]) -> None:
        """Remember decided files. Raises OSError; memory holds them then, and the next call tries again."""
        with self._lock:
            for name, signature in done:
                self._seen[name] = signature
                self._unwritten.append(json.dumps([name, *signature]))
            if self._unwritten:
                self._append()

    def _append(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            # A line broken by a full disk or a power cut must not swallow the next one.
            file.write(("\n" + "\n".join(self._unwritten) + "\n").encode())
            file.flush()
            if time.monotonic() - self._synced_s >= _SYNC_S:
                os.fsync(file.fileno())
                self._synced_s = time.monotonic()
        self._lines += len(self._unwritten)
        self._unwritten.clear()

    def keep_only(self, names: Container[str]) -> None:
        """Forget files that are gone; the file on disk is rewritten when it holds mostly those."""
        with self._lock:
            gone = [name for name in self._seen if name not in names]
            for name in gone:
                del self._seen[name]
            if self._lines > 2 * len(self._seen) + _SLACK_LINES and not self._unwritten:
                lines = [json.dumps([name, *signature]) for name, signature in self._seen.items()]
                durable.write_text(self._path, "".join(f"{line}\n" for line in lines))
                self._lines = len(lines)


def _read(path: Path) -> tuple[dict[str, Signature], int]:
    seen: dict[str, Signature] = {}
    lines = 0
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return seen, 0
    for line in text.splitlines():
        lines += 1
        try:
            name, size, mtime_ns = json.loads(line)
            seen[str(name)] = (int(size), int(mtime_ns))
        except (ValueError, TypeError):
            continue
    return seen, lines

"""Telling a damaged SQLite file from a disk that refuses, and keeping the damaged one under another name."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timezone
from pathlib import Path


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is unusable (not: full disk, missing rights, I/O error)."""
    text = str(error)
    return "malformed" in text or "is not a database" in text or "unsupported file format" in text


def set_aside(path: Path) -> Path | None:
    """Rename a database and its WAL to ``<name>.damaged-<time>``; None when there was nothing to rename."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%fZ")
    kept: Path | None = None
    for suffix in ("", "-wal", "-shm", "-journal"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            target = path.with_name(f"{path.name}.damaged-{stamp}{suffix}")
            part.rename(target)
            kept = kept or target
    return kept


def why(error: sqlite3.Error) -> str:
    """Say what SQLite ran into, in the words of whoever owns the disk."""
    text = str(error)
    if "disk is full" in text:
        return "the disk is full"
    if "readonly" in text:
        return "the disk or file is read-only"
    if "unable to open" in text:
        return "the file cannot be opened or made (missing folder, rights, read-only or full disk)"
    if "disk I/O error" in text:
        return "the disk fails or is full (I/O error)"
    return text

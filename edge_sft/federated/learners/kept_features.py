"""Features of windows kept on the site's disk from round to round: each round is a process of its own there."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from edge_sft.training.sensors.features import Table

_FIELDS: Final = ("features", "life", "run", "end", "group")
_LARGEST: Final = 1 << 30  # bytes; more than that takes as long to read as to compute


def kept(path: Path, key: str, make: Callable[[], Table]) -> Table:
    """Return the table that lies there under this key, or make it and leave it there for the next time.

    A file that is damaged, of another key or cannot be written is no error: the table is made.
    """
    found = _read(path, key)
    if found is not None:
        return found
    table = make()
    if table.features.nbytes <= _LARGEST:
        _write(path, key, table)
    return table


def _read(path: Path, key: str) -> Table | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            return Table(**{name: stored[name] for name in _FIELDS})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, key: str, table: Table) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, key=np.array(key), **{name: getattr(table, name) for name in _FIELDS})
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)

"""Pictures or rows: what a path that somebody names holds."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from edge_sft.data.listing import PICTURE_SUFFIXES
from edge_sft.data.sensors.csv_tables import peek
from edge_sft.data.sensors.listing import walk
from edge_sft.data.sensors.tables import READERS, kind_of

_LOOK = 20_000  # files; the first picture or the end decides much earlier


def holds_sensor_data(path: Path) -> bool:
    """Tell whether a file is a table of rows (and no manifest of pictures), or a folder holds such and no picture."""
    if path.is_file():
        return kind_of(path) in READERS and not _is_manifest(path)
    if not path.is_dir():
        return False
    rows = False
    for file in islice(walk(path), _LOOK):
        if file.suffix.lower() in PICTURE_SUFFIXES:
            return False
        rows = rows or kind_of(file) in READERS
    return rows


def _is_manifest(path: Path) -> bool:
    if kind_of(path) not in {".csv", ".tsv", ".txt"}:
        return False
    found = peek(path)
    if isinstance(found, str):
        return False
    names = {name.strip().lower() for name in found[0].header}
    return {"path", "label"} <= names

"""Which files of rows there are; none is opened here."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_sft.data.listing import identity
from edge_sft.data.sensors.tables import READERS, kind_of
from edge_sft.errors import DataError


@dataclass(frozen=True)
class Listing:
    """Files of rows by (name, path), sorted by name, and sentences about what was left aside."""

    root: Path
    files: tuple[tuple[str, Path], ...]
    notes: tuple[str, ...] = ()


def list_files(path: Path, pattern: str = "*", *, without: tuple[Path, ...] = ()) -> Listing:
    """List a file, or the files below a folder whose name (or path below it, where it has a ``/``) matches.

    Names that begin with ``.`` or ``_`` are left out.

    Raises:
        DataError: Nothing there, or nothing that matches.
    """
    if path.is_file():
        return Listing(path.parent, ((path.name, path),))
    if not path.is_dir():
        raise DataError(str(path), "does not exist", "Name a file of rows, or a folder of such files.")
    skipped = {one.resolve() for one in without}
    found: list[tuple[str, Path]] = []
    others: Counter[str] = Counter()
    for file in walk(path):
        name = identity(file, path)
        if file.resolve() in skipped or not fnmatch.fnmatchcase(name if "/" in pattern else file.name, pattern):
            continue
        if kind_of(file) in READERS:
            found.append((name, file))
        else:
            others[file.suffix.lower() or "no suffix"] += 1
    if not found:
        what = f"has no file that matches '{pattern}'" if pattern != "*" else "has no file of rows"
        raise DataError(str(path), what, f"Known types: {', '.join(sorted(READERS))}; CSV may be gzipped.")
    notes = tuple(f"{_files(count)} no table of rows ({suffix})." for suffix, count in sorted(others.items()))
    return Listing(path, tuple(sorted(found)), notes)


def walk(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yield the files below a folder, sorted within each, without what begins with ``.`` or ``_``."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "_")):
            continue
        if entry.is_dir():
            if depth < 16:  # links that go round
                yield from walk(entry, depth + 1)
        elif entry.is_file():
            yield entry


def _files(count: int) -> str:
    return "1 file was left out:" if count == 1 else f"{count:,} files were left out:"

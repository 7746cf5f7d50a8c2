"""Which pictures there are and how they are labelled, by looking at folders; no picture is decoded here."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_sft.data.dataset import Quarantined, SplitName
from edge_sft.data.truth import Truth
from edge_sft.errors import DataError

Layout = Literal["pool", "splits", "manifest"]

_SUFFIXES = "jpg|jpeg|jpe|jfif|png|bmp|dib|tif|tiff|webp|gif|jp2|ppm|pgm|pbm|pnm|avif|exr|hdr"
PICTURE_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split("|"))
SPLIT_WORDS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"II*\0", b"MM\0*", b"GIF8", b"RIFF")
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Listed:
    """One labelled picture file before anybody has read it; see `Item` for the fields."""

    id: str
    path: Path
    label: str
    split: SplitName | None = None
    group: str | None = None
    part_id: str | None = None
    weight: float = 1.0
    truth: Truth | None = None


@dataclass(frozen=True)
class Listing:
    """Everything found, and everything left aside with its reason."""

    layout: Layout
    entries: tuple[Listed, ...]
    quarantined: tuple[Quarantined, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Distinct labels, sorted."""
        return tuple(sorted({entry.label for entry in self.entries}))


def list_folder(root: Path) -> Listing:
    """List a folder that has one folder a class, or train/val/test folders that each have one folder a class.

    Deeper folders belong to their class. Names that begin with ``.`` or ``_`` are left out, links are followed.

    Raises:
        DataError: No folder, no class folder in it, or split folders beside class folders.
    """
    if not root.is_dir():
        fact = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(str(root), fact, "Name the folder that holds one folder of pictures a class.")
    walk = _Walk(root)
    folders = walk.folders(root)
    splits = [folder for folder in folders if folder.name.lower() in SPLIT_WORDS]
    if splits and not any(walk.folders(folder) for folder in splits):
        splits = []  # classes that happen to be called "test" and so on
    if splits and len(splits) < len(folders):
        others = ", ".join(sorted(folder.name for folder in folders if folder not in splits))
        raise DataError(
            str(root),
            f"has split folders ({', '.join(sorted(s.name for s in splits))}) beside others ({others})",
            "Move the others out, or let their names begin with an underscore.",
        )
    walk.stray(root)
    entries: list[Listed] = []
    for folder in splits:
        walk.stray(folder)
        for label in walk.folders(folder):
            entries += walk.pictures(label, SPLIT_WORDS[folder.name.lower()])
    if not splits:
        for label in folders:
            entries += walk.pictures(label, None)
    entries.sort(key=lambda entry: entry.id)
    layout: Layout = "splits" if splits else "pool"
    return Listing(layout, tuple(entries), tuple(walk.quarantined), tuple(walk.notes()))


def identity(path: Path, root: Path) -> str:
    """Return a path relative to the data folder, forward slashes, always valid Unicode."""
    relative = Path(os.path.relpath(path, root)).as_posix()
    return os.fsencode(relative).decode("utf-8", "replace") if os.name != "nt" else relative


def looks_like_picture(path: Path) -> bool:
    """Tell by the suffix, else by the first bytes, whether a file claims to be a picture."""
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return True
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(8).startswith(_MAGIC)
    except OSError:
        return False


class _Walk:
    """One look through the folders; remembers what was left aside."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.quarantined: list[Quarantined] = []
        self.others: Counter[str] = Counter()
        self.hidden: list[str] = []

    def folders(self, folder: Path) -> list[Path]:
        return [entry for entry in self._visible(folder) if entry.is_dir()]

    def stray(self, folder: Path) -> None:
        """Quarantine pictures that lie where only folders are expected."""
        for entry in self._visible(folder, remember=True):
            if entry.is_dir():
                continue
            if looks_like_picture(entry):
                self._leave(entry, "lies in no class folder")
            else:
                self.others[entry.suffix.lower() or "no suffix"] += 1

    def pictures(self, folder: Path, split: SplitName | None) -> Iterator[Listed]:
        label = unicodedata.normalize("NFC", identity(folder, folder.parent))
        for path in self._files(folder, seen=set()):
            yield Listed(identity(path, self.root), path, label, split)

    def notes(self) -> Iterator[str]:
        for suffix, count in sorted(self.others.items()):
            which = "file that is no picture was" if count == 1 else "files that are no pictures were"
            yield f"{count:,} {which} left out ({suffix})."
        if self.hidden:
            which = "folder was" if len(self.hidden) == 1 else "folders were"
            yield f"{len(self.hidden):,} hidden {which} left out, for example {self.hidden[0]}."

    def _files(self, folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
        try:
            here = folder.stat()
        except OSError as error:
            self._leave(folder, f"cannot be read ({error.strerror or error})")
            return
        if (here.st_dev, here.st_ino) in seen and here.st_ino:
            self._leave(folder, "is a link back into a folder that contains it")
            return
        for entry in self._visible(folder, remember=True):
            if entry.is_dir():
                yield from self._files(entry, seen | {(here.st_dev, here.st_ino)})
            elif looks_like_picture(entry):
                yield entry
            else:
                self.others[entry.suffix.lower() or "no suffix"] += 1

    def _visible(self, folder: Path, *, remember: bool = False) -> list[Path]:
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            self._leave(folder, f"cannot be read ({error.strerror or error})")
            return []
        if remember:
            self.hidden += [identity(e, self.root) for e in entries if e.name.startswith(("_", ".")) and e.is_dir()]
        return [e for e in entries if not e.name.startswith((".", "_")) and e.name.lower() not in _SYSTEM_FILES]

    def _leave(self, path: Path, reason: str) -> None:
        self.quarantined.append(Quarantined(identity(path, self.root), reason))

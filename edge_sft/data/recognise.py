"""Looking at somebody's folder of pictures and writing the recipe that fits it."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edge_sft.data import manifest as manifests
from edge_sft.data.dataset import PictureFacts
from edge_sft.data.drafting import compose, toml
from edge_sft.data.listing import Listing, list_folder, looks_like_picture
from edge_sft.data.looking import Seen, look_all
from edge_sft.data.words import means_good
from edge_sft.errors import DataError
from edge_sft.preprocess import require_opencv

_SAMPLE = 96  # pictures looked at: enough for a median, quick on a network share
_SMALLEST, _LARGEST, _STEP = 64, 224, 32


@dataclass(frozen=True)
class _Found:
    root: Path
    listing: Listing
    manifest: Path | None
    remarks: list[str]


def draft_recipe(folder: Path, *, here: Path | None = None) -> str:
    """Write a commented recipe for a folder of class folders, or for a folder with (or the path of) a manifest.

    Args:
        folder: What the user pointed at.
        here: Folder that the recipe will lie in; data below it is written as a relative path.

    Returns:
        TOML that `edge_sft.recipe.load` reads without edits.

    Raises:
        DataError: Nothing to learn from: no folder, no pictures, only one class, none readable.
        DeviceError: OpenCV is missing.
    """
    require_opencv()
    found = _find(folder)
    labels = found.listing.labels
    if len(labels) < 2:
        what = f"only one class ('{labels[0]}')" if labels else "no picture in class folders"
        raise DataError(
            str(folder),
            f"has {what}",
            "Put the pictures into at least two folders, one a class, for example ok/ and scratch/.",
        )
    facts = _sample(found)
    good = [label for label in labels if means_good(label)]
    values: dict[str, Any] = {
        "name": model_name(folder),
        "task.labels": [*good, *(label for label in labels if label not in good)],
        "task.ok": good,
        "data.path": _written(found.root, here),
        "image.size": input_size(facts),
        "image.grey": all(fact.channels == 1 for fact in facts),
    }
    if found.manifest is not None:
        values["data.manifest"] = _written(found.manifest, here)
    depth = depth_range(facts)
    if depth is not None:
        values["image.depth_range"] = depth
    return compose(values, _remarks(found, facts, good), _opening(found, folder))


def model_name(folder: Path) -> str:
    """Make a model's name from a folder's: small ASCII letters, digits, ``_``, ``.`` and ``-``."""
    path = folder.resolve()
    name = path.parent.name if path.is_file() or path.name.lower() in {"images", "pictures", "data"} else path.name
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_.-]+", "-", plain).strip("-_.")[:64] or "model"


def input_size(facts: Sequence[PictureFacts]) -> int:
    """Choose the model's input side: the multiple of 32 nearest to the median shorter side, 64 to 224."""
    side = median(min(fact.height, fact.width) for fact in facts)
    return max(_SMALLEST, min(_LARGEST, _STEP * round(side / _STEP)))


def depth_range(facts: Sequence[PictureFacts]) -> list[int] | None:
    """Guess what values a 16-bit camera uses (10, 12, 14 or 16 bits); None for 8-bit pictures."""
    deep = [fact.high for fact in facts if fact.bits == 16]
    if not deep:
        return None
    return [0, next((top for top in (255, 1023, 4095, 16383) if max(deep) <= top), 65535)]


def group_pattern(ids: Sequence[str]) -> str | None:
    """Find a regex under which most pictures share their group with others: a serial followed by a shot number."""
    for pattern in (r"([^/]+)[-_ ][^-_ /]+\.[^./]+$", r"([^/]+)([-_ ][^-_ /]+){2}\.[^./]+$", r"([^-_ /]+)[-_ ][^/]+$"):
        found = Counter(match.group(1) for name in ids if (match := re.search(pattern, name)))
        shared = sum(count for count in found.values() if count > 1)
        if len(ids) and shared >= 0.5 * len(ids) and len(found) >= max(6, 0.05 * len(ids)):
            return pattern
    return None


def _find(folder: Path) -> _Found:
    if folder.is_file():
        listing = manifests.read_manifest(folder, folder.parent)
        return _Found(folder.parent, listing, folder, [])
    if not folder.is_dir():
        return _Found(folder, list_folder(folder), None, [])  # says what is wrong
    usable = [(path, found) for path in manifests.candidates(folder) if (found := _manifest(path, folder))]
    if usable:
        path, first = usable[0]
        remarks = [f"Other manifests here: {', '.join(other.name for other, _ in usable[1:])}."] if usable[1:] else []
        return _Found(folder, first, path, remarks)
    root = folder
    while (only := _only_folder(root)) is not None:
        root = only
    return _Found(root, list_folder(root), None, [])


def _manifest(path: Path, root: Path) -> Listing | None:
    """Read a file as a manifest if it is one: the columns are there and a picture it names exists."""
    try:
        columns, _ = manifests.read_rows(path)
    except DataError:
        return None
    if "path" not in columns or "label" not in columns:
        return None
    listing = manifests.read_manifest(path, root)
    # Path.exists raises on names too long, which a manifest may hold
    return listing if any(os.path.exists(entry.path) for entry in listing.entries) else None  # noqa: PTH110


def _only_folder(root: Path) -> Path | None:
    """Step into a folder such as ``images/`` when it is all there is and holds folders itself."""
    entries = [entry for entry in sorted(root.iterdir()) if not entry.name.startswith((".", "_"))]
    folders = [entry for entry in entries if entry.is_dir()]
    if len(folders) != 1 or any(looks_like_picture(entry) for entry in entries if not entry.is_dir()):
        return None
    return folders[0] if any(entry.is_dir() for entry in folders[0].iterdir()) else None


def _sample(found: _Found) -> list[PictureFacts]:
    entries = found.listing.entries
    step = max(1, len(entries) // _SAMPLE)
    looks = list(look_all(entry.path for entry in entries[::step]))
    facts = [look.facts for look in looks if isinstance(look, Seen)]
    if not facts:
        raise DataError(str(found.root), f"has no readable picture; the first one {looks[0]}", "Check the files.")
    return facts


def _written(path: Path, here: Path | None) -> str:
    full = path.resolve()
    if here is not None and full.is_relative_to(here.resolve()):
        return Path(os.path.relpath(full, here.resolve())).as_posix()
    return full.as_posix()


def _opening(found: _Found, folder: Path) -> list[str]:
    counts = Counter(entry.label for entry in found.listing.entries)
    shown = ", ".join(f"{label} {count}" for label, count in counts.most_common(24))
    lines = [
        f"Recipe for {folder.name or folder}: {len(found.listing.entries)} pictures in {len(counts)} classes.",
        _one_line(f"Pictures a class: {shown}{' …' if len(counts) > 24 else ''}."),
        "Every key shows its default or what the folder suggests. Next: edge-sft check, then edge-sft build.",
    ]
    rare = [label for label, count in counts.items() if count < 10]
    if rare:
        lines.append(_one_line(f"WARNING: fewer than 10 pictures of {', '.join(rare)}: results will be a guess."))
    folded = Counter("".join(label.casefold().split()) for label in counts)
    twins = [label for label in counts if folded["".join(label.casefold().split())] > 1]
    if twins:
        lines.append(_one_line(f"WARNING: these labels differ by case or blanks only: {', '.join(sorted(twins))}."))
    if found.listing.quarantined:
        lines.append(f"WARNING: {len(found.listing.quarantined)} files were left out; edge-sft check names them.")
    return [*lines, *(_one_line(note) for note in (*found.remarks, *found.listing.notes)), ""]


def _remarks(found: _Found, facts: Sequence[PictureFacts], good: Sequence[str]) -> dict[str, list[str]]:
    sides = [min(fact.height, fact.width) for fact in facts]
    aspect = median(max(fact.height, fact.width) / min(fact.height, fact.width) for fact in facts)
    size = (
        f"The pictures' shorter side is {min(sides)} to {max(sides)} pixels (median {median(sides):g}); taken is the "
        f"nearest multiple of {_STEP} from {_SMALLEST} to {_LARGEST}. Larger sees finer defects and takes longer."
    )
    remarks: dict[str, list[str]] = {"image.size": [size]}
    if not good:
        remarks["task.ok"] = ["WARNING: no label sounds like a good part: name those that are, or keep [] to sort."]
    if aspect > 2:
        remarks["image.fit"] = [f"The pictures are {aspect:.1f} times as long as wide; try pad if shapes matter."]
    if any(fact.bits == 16 for fact in facts):
        low, high = min(f.low for f in facts), max(f.high for f in facts)
        remarks["image.depth_range"] = [f"16-bit pictures whose values go from {low} to {high}."]
    has_groups = any(entry.group for entry in found.listing.entries)
    pattern = None if has_groups else group_pattern([entry.id for entry in found.listing.entries])
    if has_groups:
        remarks["data.split.group"] = ["The manifest has a group column, which goes first."]
    elif pattern is not None:
        remarks["data.split.group"] = [
            "WARNING: file names look as if one part was taken several times. If so, keep its pictures on one side:",
            f"group = {toml(pattern)}",
        ]
    if found.listing.layout == "splits":
        remarks["data.split"] = ["The folder has train/val/test folders, which go first."]
    elif any(entry.split for entry in found.listing.entries):
        remarks["data.split"] = ["The manifest has a split column, which goes first."]
    return remarks


def _one_line(text: str) -> str:
    """Keep names with line breaks or control characters from breaking out of a comment."""
    return "".join(c if c.isprintable() else "?" for c in text)

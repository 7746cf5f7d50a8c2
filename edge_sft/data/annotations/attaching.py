"""Finding the annotation file or mask that belongs to each listed picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edge_sft.checkpoint import sha256_of
from edge_sft.data.annotations import voc
from edge_sft.data.dataset import Quarantined
from edge_sft.data.listing import Listed, Listing
from edge_sft.data.truth import Truth
from edge_sft.errors import DataError

_MASKS = (".png", ".bmp", ".tif", ".tiff")
_ENDINGS = ("", "_mask", "_gt")


def attach(listing: Listing, *, annotations: Path | None, masks: Path | None, good: Sequence[str]) -> Listing:
    """Return the listing with what is marked in each picture, where that is known.

    Args:
        listing: Pictures by label.
        annotations: Folder of VOC's XML files, one a picture, of the picture's name without its suffix.
        masks: Folder that mirrors the pictures' (with or without its first folder); a mask has the picture's name or
            that and ``_mask``. A good picture needs none.
        good: Labels of pictures in which nothing is marked.

    Raises:
        DataError: A folder is missing or holds nothing of the kind.
    """
    by_stem = {} if annotations is None else _xml(annotations)
    by_path = {} if masks is None else _mask_files(masks)
    entries: list[Listed] = []
    quarantined: list[Quarantined] = []
    for entry in listing.entries:
        try:
            truth = _truth(entry, by_stem, by_path, good)
        except DataError as error:
            quarantined.append(Quarantined(entry.id, f"its annotation {error.fact}"))
            continue
        entries.append(replace(entry, truth=truth))
    return replace(listing, entries=tuple(entries), quarantined=(*listing.quarantined, *quarantined))


def _truth(entry: Listed, by_stem: dict[str, Path], by_path: dict[str, Path], good: Sequence[str]) -> Truth | None:
    name = Path(entry.id)
    if by_stem:
        found = by_stem.get(name.stem)
        return voc.read(found) if found is not None else Truth() if entry.label in good else None
    if not by_path:
        return None
    parts = name.with_suffix("").parts
    for start in range(min(2, len(parts))):
        key = "/".join(parts[start:])
        for ending in _ENDINGS:
            mask = by_path.get(key + ending)
            if mask is not None:
                return Truth(mask=mask, mask_sha256=sha256_of(mask))
    return Truth() if entry.label in good else None


def _xml(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in _files(folder, (".xml",), "no XML file", "data.annotations")}


def _mask_files(folder: Path) -> dict[str, Path]:
    files = _files(folder, _MASKS, "no mask (PNG, BMP, TIFF)", "data.masks")
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def _files(folder: Path, suffixes: tuple[str, ...], nothing: str, key: str) -> list[Path]:
    if not folder.is_dir():
        raise DataError(str(folder), "is no folder", f"Mend {key} in the recipe.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not found:
        raise DataError(str(folder), f"holds {nothing}", f"Mend {key} in the recipe.")
    return found

"""The public sets with marks, in their published splits: NEU-DET (boxes) and magnetic tiles (masks)."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from protocols import SHARED

from edge_sft.data.dataset import Dataset, Item, SplitName
from edge_sft.data.truth import Annotation, Truth

LABELS = {
    "neu_det": ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches"),
    "magnetic_tile": ("blowhole", "break", "crack", "fray", "uneven"),
}


def marked(name: str, splits: Sequence[SplitName]) -> Dataset:
    """Read a set with its truths; pictures of other splits are not even opened."""
    root = SHARED / name
    items = []
    with (root / "splits.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] not in splits:
                continue
            path = root / row["path"]
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            truth = _boxes(root, path, row["label"]) if name == "neu_det" else _mask(root, path, row["label"])
            group = row.get("group")
            items.append(Item(row["path"], path, row["label"], digest, row["split"], group, truth=truth))
    return Dataset(root, LABELS[name], tuple(sorted(items, key=lambda item: item.id)))


def _boxes(root: Path, path: Path, label: str) -> Truth:
    """VOC counts pixels from 1 and includes the last: 1..200 is all of 200."""
    tree = ElementTree.parse(root / "annotations_voc" / label / f"{path.stem}.xml").getroot()
    found = []
    for thing in tree.iter("object"):
        sides = [float(thing.findtext(f"bndbox/{name}", "nan")) for name in ("xmin", "ymin", "xmax", "ymax")]
        left, top, right, bottom = max(0.0, sides[0] - 1), max(0.0, sides[1] - 1), sides[2], sides[3]
        found.append(Annotation(thing.findtext("name", ""), (left, top, right, bottom)))
    return Truth(tuple(found))


def _mask(root: Path, path: Path, label: str) -> Truth:
    mask = root / "masks" / label / f"{path.stem}.png"
    if not mask.is_file():
        return Truth()
    return Truth(mask=mask, mask_sha256=hashlib.sha256(mask.read_bytes()).hexdigest())

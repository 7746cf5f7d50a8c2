"""Dataset: samples + labels + groups + content fingerprint, already split. Values only; readers build them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from edge_sft.data.truth import Truth

SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Item:
    """One labelled picture.

    Attributes:
        id: Path relative to the data folder with forward slashes; what people see.
        path: Where the file lies on this machine.
        label: Its label.
        sha256: SHA-256 of the file's content.
        split: Which split it belongs to.
        group: What must not straddle two splits (serial, lot, screw position), or None.
        part_id: Identity of the part, if known.
        weight: Weight of this sample in training and metrics.
        given_group: The group as the data's owner gave it (manifest column or regex); ``group`` may be wider,
            because near-duplicates are joined to it.
        truth: What is marked in it; None where nobody said, and for classification.
    """

    id: str
    path: Path
    label: str
    sha256: str
    split: SplitName
    group: str | None = None
    part_id: str | None = None
    weight: float = 1.0
    given_group: str | None = None
    truth: Truth | None = None


@dataclass(frozen=True)
class PictureFacts:
    """What reading one picture told about it; brightness and contrast on a scale of 0 to 255.

    Attributes:
        height: Pixels.
        width: Pixels.
        channels: 1 or 3.
        bits: 8 or 16.
        low: Smallest pixel value found.
        high: Largest pixel value found.
        mean: Mean brightness.
        contrast: Standard deviation of the brightness.
        focus: Variance of the Laplacian; small means blurred (or a plain surface).
        thumbnail: 32 x 32 bytes, brightness with mean 0 and deviation 1 mapped to 128 + 32 x; empty for a
            picture without any structure.
        detail: 96 x 96 signed bytes, what a slight blur takes away, for comparing two pictures closely; may be empty.
    """

    height: int
    width: int
    channels: int
    bits: int
    low: int
    high: int
    mean: float
    contrast: float
    focus: float
    thumbnail: bytes = field(default=b"", repr=False)
    detail: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Quarantined:
    """A file that was left out, and why; never silently dropped."""

    id: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Everything a training needs to know about the data; ``items`` are sorted by id.

    ``facts`` go with ``items`` one to one (empty where nobody read the pictures); ``notes`` are sentences about
    what the reader left aside on purpose (files that are no pictures, unknown manifest columns); ``alike`` are index
    pairs of near-duplicates (None where nobody compared); ``partial`` says that labels without a picture are no
    mistake: it is a site of a federation, and others have them.
    """

    root: Path
    labels: tuple[str, ...]
    items: tuple[Item, ...]
    quarantined: tuple[Quarantined, ...] = ()
    facts: tuple[PictureFacts, ...] = field(default=(), repr=False, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    alike: tuple[tuple[int, int], ...] | None = field(default=None, repr=False, compare=False)
    partial: bool = field(default=False, compare=False)

    def split(self, name: SplitName) -> tuple[Item, ...]:
        """Return the items of one split, sorted by id."""
        return tuple(item for item in self.items if item.split == name)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over (content, label, split) of all items; independent of where and in what order they lie."""
        return _fingerprint(self.items)

    @cached_property
    def test_fingerprint(self) -> str:
        """SHA-256 over (content, label) of the test split: what `data.split.frozen_test` insists on."""
        return _fingerprint(self.split("test"))


def _fingerprint(items: Iterable[Item]) -> str:
    lines = sorted(
        f"{item.sha256} {item.split} {item.label}" + (f" {item.truth.digest}" if item.truth else "") for item in items
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()

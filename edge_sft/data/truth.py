"""Truth: what somebody marked in a picture. Values only; `edge_sft.data.annotations` reads them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

GOOD = "good"  # what a picture without any annotation is called where its format has no word for it

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Annotation:
    """One marked thing, in pixels of the file's picture, the origin at the upper left corner of its first pixel.

    Attributes:
        label: What it is.
        box: Left, top, right, bottom; left < right, top < bottom.
        outlines: Closed polygons that bound it (several where it has several parts); empty where only a box is known.
        crowd: A region with many of them (COCO's ``iscrowd``): neither learnt from nor counted as missed.
    """

    label: str
    box: Box
    outlines: tuple[tuple[Point, ...], ...] = ()
    crowd: bool = False


@dataclass(frozen=True)
class Truth:
    """All that is marked in one picture; no annotation and no mask = somebody looked and found nothing.

    Attributes:
        annotations: Boxes and outlines.
        mask: A picture file of the same height and width whose pixels name labels, or None.
        values: What a mask's pixel values mean, as (value, label); empty = 0 is good and all else the picture's label.
        mask_sha256: Of the mask's content.
    """

    annotations: tuple[Annotation, ...] = ()
    mask: Path | None = None
    values: tuple[tuple[int, str], ...] = ()
    mask_sha256: str = field(default="", compare=False)

    @property
    def digest(self) -> str:
        """SHA-256 over what is marked, independent of paths."""
        marked = sorted((mark.label, mark.box, mark.outlines, mark.crowd) for mark in self.annotations)
        return hashlib.sha256(repr((marked, self.mask_sha256, self.values)).encode()).hexdigest()

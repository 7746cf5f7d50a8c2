"""From the tiles' boxes to marks in the frame: moved, freed of what neighbours saw twice, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sft.bundle.comparing import overlap
from edge_sft.prediction import Mark
from edge_sft.preprocess.tiling import Placement

Floats = NDArray[np.float32]

LEAST_SCORE = 0.05  # below it a box is not looked at; thresholds are chosen above
_MOST = 1000  # boxes of one picture that are compared with each other, the highest scores
_AT_BORDER = 2.0  # pixels of a tile within which a box touches its border
# Two boxes of one label from different tiles are the same object from this intersection over union on, ...
_SAME = 0.5
# ... or where this share of the smaller one lies in the larger: a tile sees a part of what its neighbour sees whole.
_INSIDE = 0.6
# A box with less of it in what the model sees is of a mirror image: beyond the picture's edge tiles continue it so.
_SEEN = 0.25


@dataclass(frozen=True)
class _Boxes:
    """Boxes of all tiles, in pixels of the frame."""

    boxes: Floats
    scores: Floats
    labels: NDArray[np.int32]
    tiles: NDArray[np.int64]
    cut: NDArray[np.bool_]

    def take(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> _Boxes:
        return _Boxes(
            self.boxes[chosen], self.scores[chosen], self.labels[chosen], self.tiles[chosen], self.cut[chosen]
        )


def marks_of(
    outputs: dict[str, NDArray[np.generic]],
    placement: Placement,
    region: tuple[int, int, int, int],
    labels: Sequence[str],
    mm_per_pixel: float | None,
) -> list[Mark]:
    """Mark every object once.

    A box that ends at a border between tiles gives way to the one of the tile that sees the object whole, whatever
    their scores; what remains double (of one label, from different tiles) gives way to the higher score. Boxes of
    one tile are never compared: the graph told them apart.

    Args:
        outputs: ``boxes`` [T,M,4], ``scores`` [T,M] and ``labels`` [T,M] of all tiles, finite.
        placement: Where the tiles lie.
        region: What of the frame the model sees: left, top, right, bottom.
        labels: The task's.
        mm_per_pixel: Of the frame, or None.

    Returns:
        Marks in falling order of score, also those that a policy does not tell.
    """
    found = _in_frame(outputs, placement, region)
    order = np.lexsort((-found.scores, found.cut))  # whole ones first
    kept = _once(found.take(order)) if len(placement) > 1 else found
    kept = kept.take(np.argsort(-kept.scores, kind="stable"))
    return [
        _mark(box, float(score), labels[int(label)], mm_per_pixel)
        for box, score, label in zip(kept.boxes.tolist(), kept.scores, kept.labels, strict=True)
    ]


def _in_frame(
    outputs: dict[str, NDArray[np.generic]], placement: Placement, region: tuple[int, int, int, int]
) -> _Boxes:
    """Return the likeliest boxes of all tiles, moved to the frame and clipped to what the model sees."""
    scores, labels = np.asarray(outputs["scores"]), np.asarray(outputs["labels"])
    tiles, places = np.nonzero(scores >= LEAST_SCORE)
    chosen = np.argsort(-scores[tiles, places], kind="stable")[:_MOST]
    tiles, places = tiles[chosen], places[chosen]
    own = np.asarray(outputs["boxes"], dtype=np.float32)[tiles, places]
    moved = np.zeros_like(own)
    for index in np.unique(tiles):
        mine = tiles == index
        moved[mine] = placement.to_frame(own[mine], int(index))
    left, top, right, bottom = region
    moved = np.clip(moved, (left, top, left, top), (right, bottom, right, bottom)).astype(np.float32)
    sizes = (own[:, 2:] - own[:, :2]).prod(axis=1) * _pixels(placement)[tiles]
    inside = np.clip(moved[:, 2:] - moved[:, :2], 0, None).prod(axis=1)
    seen = np.asarray((inside > 0) & (inside >= _SEEN * sizes))
    cut = _cut(own, tiles, placement)
    kinds = labels[tiles, places].astype(np.int32)
    return _Boxes(moved, scores[tiles, places].astype(np.float32), kinds, tiles, cut).take(seen)


def _pixels(placement: Placement) -> NDArray[np.float64]:
    """Return how many pixels of the frame one pixel of each tile covers."""
    return np.array([1 / (view.scale[0] * view.scale[1]) for view in placement.views])


def _cut(own: Floats, tiles: NDArray[np.int64], placement: Placement) -> NDArray[np.bool_]:
    """Tell which boxes end at a border of their tile behind which there is another."""
    corners = np.array(placement.corners, dtype=np.float32)[tiles]
    height, width = placement.tile
    inner = np.stack(
        [
            corners[:, 1] > 0,
            corners[:, 0] > 0,
            corners[:, 1] + width < placement.canvas[1],
            corners[:, 0] + height < placement.canvas[0],
        ],
        axis=1,
    )
    room = np.stack([own[:, 0], own[:, 1], width - own[:, 2], height - own[:, 3]], axis=1)
    return np.asarray((inner & (room <= _AT_BORDER)).any(axis=1))


def _once(found: _Boxes) -> _Boxes:
    """Leave out what one before it, of another tile and the same label, is already."""
    apart = found.tiles[:, None] != found.tiles[None]
    same = apart & (found.labels[:, None] == found.labels[None])
    double = same & ((overlap(found.boxes, found.boxes) >= _SAME) | (_inside(found.boxes) >= _INSIDE))
    kept = np.ones(len(found.scores), dtype=np.bool_)
    for index in range(len(kept)):
        if kept[index]:
            kept[index + 1 :] &= ~double[index, index + 1 :]
    return found.take(kept)


def _inside(boxes: Floats) -> NDArray[np.float64]:
    """Return the intersection over the smaller of each pair, [n,n]."""
    a, b = boxes.astype(np.float64)[:, None], boxes.astype(np.float64)[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    areas = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(axis=1)
    return np.asarray(sides.prod(axis=2) / np.maximum(np.minimum(areas[:, None], areas[None]), 1e-12))


def _mark(box: list[float], score: float, label: str, mm_per_pixel: float | None) -> Mark:
    left, top, right, bottom = (round(value, 2) for value in box)
    width, height = right - left, bottom - top
    known = mm_per_pixel is not None
    return Mark(
        label=label,
        score=float(f"{score:.5g}"),
        left=left,
        top=top,
        right=right,
        bottom=bottom,
        area_mm2=round(width * height * mm_per_pixel**2, 4) if known and mm_per_pixel else None,
        length_mm=round(max(width, height) * mm_per_pixel, 4) if known and mm_per_pixel else None,
    )

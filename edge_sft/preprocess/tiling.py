"""From a frame to the tiles that a model sees, and back: where each lies, how their maps and boxes become one.

One tile for most pictures, many for large ones (`Preprocess.tiles`); the same functions in training and serving.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.preprocess.images import (
    TILE_STEP,
    Preprocess,
    finished,
    fitted,
    fitted_size,
    region,
    region_box,
    resized,
)

Floats = NDArray[np.float32]

# Tiles in one batch on a GPU. On a processor one at a time is quicker: Lite0 on tiles of 512 pixels, ONNX Runtime on
# two cores, takes 36 ms and 84 MB a tile alone, 110 ms and 86 MB a tile in batches of 8, which leave the caches.
AT_ONCE = 8

# Share of the overlap, next to a tile's border, that its neighbour alone tells: there the network saw zeros beyond the
# border. Lite0 on a steel surface, tiles of 256: against the map of the uncut picture the mean error falls from 2.4 to
# 0.2 % of the map's deviation at stride 8 and overlap 64 (20 to 13 % at stride 16).
_BLIND = 0.25


@dataclass(frozen=True)
class View:
    """How the frame lies in a tile: tile = frame x scale + shift, in pixels, x and y apart."""

    scale: tuple[float, float]
    shift: tuple[float, float]


@dataclass(frozen=True)
class Placement:
    """How a frame was cut.

    Attributes:
        frame: (height, width) of the frame as the camera gave it, pixels.
        tile: (height, width) of a tile, pixels.
        views: One a tile, in the order of the tensors.
        canvas: (height, width) of what the tiles cover together, pixels of a tile; larger than the picture by less
            than a tile where it does not divide.
        corners: (top, left) of each tile on the canvas.
        overlap: Pixels that neighbours share at least.
    """

    frame: tuple[int, int]
    tile: tuple[int, int]
    views: tuple[View, ...]
    canvas: tuple[int, int]
    corners: tuple[tuple[int, int], ...]
    overlap: int = 0

    def __len__(self) -> int:
        return len(self.views)

    def to_tile(self, boxes: Floats, index: int) -> Floats:
        """Move boxes [n,4] xyxy from the frame to a tile; not clipped."""
        view = self.views[index]
        return np.asarray(boxes * _twice(view.scale) + _twice(view.shift), dtype=np.float32)

    def to_frame(self, boxes: Floats, index: int) -> Floats:
        """Move boxes [n,4] xyxy from a tile to the frame, clipped to it."""
        view = self.views[index]
        moved = (boxes - _twice(view.shift)) / _twice(view.scale)
        height, width = self.frame
        return np.asarray(np.clip(moved, 0, _twice((width, height))), dtype=np.float32)

    def merge(self, maps: Floats) -> Floats:
        """Blend the tiles' maps [T,…,h,w] into one of the canvas [...,h',w'], without a seam.

        A tile's weight falls linearly over the middle half of what it shares with a neighbour, and the weights of a
        cell add up to 1: where two tiles agree the blend is what they agree on, where they differ it changes
        gradually.
        """
        if len(self) == 1:
            return np.asarray(maps[0], dtype=np.float32)
        cells = maps.shape[-2:]
        sizes = self.tile[0] // cells[0], self.tile[1] // cells[1]  # pixels a cell
        rows, columns = self.canvas[0] // sizes[0], self.canvas[1] // sizes[1]
        total = np.zeros((*maps.shape[1:-2], rows, columns), dtype=np.float32)
        weights = np.zeros((rows, columns), dtype=np.float32)
        for one, (top, left) in zip(maps, self.corners, strict=True):
            weight = np.outer(self._ramp(0, top, cells[0]), self._ramp(1, left, cells[1])).astype(np.float32)
            where = (
                slice(top // sizes[0], top // sizes[0] + cells[0]),
                slice(left // sizes[1], left // sizes[1] + cells[1]),
            )
            total[..., where[0], where[1]] += one * weight
            weights[where] += weight
        return np.asarray(total / weights, dtype=np.float32)

    def map_view(self, cells: tuple[int, int]) -> View:
        """Return how the frame lies in a merged map of so many (rows, columns): cell = frame x scale + shift.

        Cell (0, 0) spans from 0 to 1 in both directions.
        """
        first = self.views[0]
        top, left = self.corners[0] if len(self) > 1 else (0, 0)
        factor = cells[1] / self.canvas[1], cells[0] / self.canvas[0]
        shift = first.shift[0] + left, first.shift[1] + top
        return View(
            (first.scale[0] * factor[0], first.scale[1] * factor[1]), (shift[0] * factor[0], shift[1] * factor[1])
        )

    def _ramp(self, axis: int, start: int, cells: int) -> Floats:
        """Return a tile's weight along an axis: 1 inside, falling to both sides but not at the canvas's border."""
        length = self.tile[axis]
        centre = (np.arange(cells) + 0.5) * (length / cells)
        weight = np.ones(cells)
        if start > 0:
            weight = np.minimum(weight, self._share(centre))
        if start + length < self.canvas[axis]:
            weight = np.minimum(weight, self._share(length - centre))
        return weight.astype(np.float32)

    def _share(self, distance: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return a tile's weight so far from a border to a neighbour; never quite 0, where no neighbour reaches."""
        blind = _BLIND * self.overlap
        return np.asarray(np.clip((distance - blind) / max(1.0, self.overlap - 2 * blind), 1e-6, 1.0))


def place(height: int, width: int, spec: Preprocess) -> Placement:
    """Say how a frame of this size is cut."""
    left, top, right, bottom = region_box(height, width, spec.roi)
    tile = spec.height, spec.width
    if spec.tiles is None:
        return Placement((height, width), tile, (_one_view((left, top, right, bottom), spec),), tile, ((0, 0),))
    scaled = _scaled(bottom - top, spec.tiles.scale), _scaled(right - left, spec.tiles.scale)
    starts = [_starts(size, length, spec.tiles.overlap) for size, length in zip(scaled, tile, strict=True)]
    corners = tuple((row, column) for row in starts[0] for column in starts[1])
    scale = scaled[1] / (right - left), scaled[0] / (bottom - top)
    views = tuple(View(scale, (-left * scale[0] - column, -top * scale[1] - row)) for row, column in corners)
    canvas = starts[0][-1] + tile[0], starts[1][-1] + tile[1]
    return Placement((height, width), tile, views, canvas, corners, spec.tiles.overlap)


def cut(frame: NDArray[Any], spec: Preprocess, *, size: tuple[int, int] | None = None) -> tuple[Placement, Tiling]:
    """Turn a frame into the tiles that the model sees.

    Args:
        frame: uint8 or uint16, [H, W], [H, W, 1] or [H, W, 3] RGB.
        spec: Geometry to apply.
        size: (height, width) of the frame as the camera gave it, where ``frame`` was shrunk while it was decoded.

    Returns:
        Where the tiles lie, and the tiles.

    Raises:
        DataError: No frame.
    """
    inside = region(frame, spec)
    height, width = size or frame.shape[:2]
    placement = place(height, width, spec)
    if spec.tiles is None:
        return placement, Tiling(placement, finished(fitted(inside, spec)))
    left, top, right, bottom = region_box(height, width, spec.roi)
    scaled = _scaled(bottom - top, spec.tiles.scale), _scaled(right - left, spec.tiles.scale)
    return placement, Tiling(placement, _mirrored(resized(inside, scaled[1], scaled[0]), placement.canvas))


@dataclass(frozen=True)
class Tiling:
    """The tiles of one frame, cut out when asked for; a large picture is held once."""

    placement: Placement
    picture: NDArray[np.uint8]

    def batches(self, at_once: int = AT_ONCE) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 [n,H,W,3] with n ≤ ``at_once``, in the placement's order."""
        height, width = self.placement.tile
        corners = self.placement.corners
        for start in range(0, len(corners), at_once):
            yield np.stack(
                [
                    finished(self.picture[top : top + height, left : left + width])
                    for top, left in corners[start : start + at_once]
                ]
            )


def tile_mask(mask: NDArray[np.uint8], placement: Placement, index: int, outside: int = 0) -> NDArray[np.uint8]:
    """Bring a frame's mask of label numbers [H,W] into a tile; ``outside`` is what no frame covers."""
    import cv2

    view = placement.views[index]
    height, width = placement.tile
    # warpAffine counts from the centres of pixels, views from their corners
    matrix = np.array(
        [
            [view.scale[0], 0, view.shift[0] + 0.5 * view.scale[0] - 0.5],
            [0, view.scale[1], view.shift[1] + 0.5 * view.scale[1] - 0.5],
        ]
    )
    moved = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=(outside,))
    return np.asarray(moved, dtype=np.uint8)


def _one_view(box: tuple[int, int, int, int], spec: Preprocess) -> View:
    left, top, right, bottom = box
    rows, columns = fitted_size(bottom - top, right - left, spec)
    scale = columns / (right - left), rows / (bottom - top)
    # fit = pad leaves a border, crop cuts one away, stretch has none
    offset = _offset(spec.width, columns), _offset(spec.height, rows)
    return View(scale, (offset[0] - left * scale[0], offset[1] - top * scale[1]))


def _offset(wanted: int, got: int) -> int:
    return (wanted - got) // 2 if wanted >= got else -((got - wanted) // 2)


def _scaled(length: int, scale: float) -> int:
    return max(1, round(length * scale))


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles begin along an axis: evenly, at multiples of TILE_STEP, covering ``size``."""
    if size <= tile:
        return [0]
    count = -(-(size - overlap) // (tile - overlap))
    last = -(-(size - tile) // TILE_STEP) * TILE_STEP
    starts = [round(last * place / (count - 1) / TILE_STEP) * TILE_STEP for place in range(count)]
    while any(b - a > tile - overlap for a, b in itertools.pairwise(starts)):  # rounding took some of the overlap
        count += 1
        starts = [round(last * place / (count - 1) / TILE_STEP) * TILE_STEP for place in range(count)]
        if count > 1 + last // TILE_STEP:  # every multiple of TILE_STEP
            return list(range(0, last + 1, TILE_STEP))
    return starts


def _mirrored(picture: NDArray[np.uint8], canvas: tuple[int, int]) -> NDArray[np.uint8]:
    """Continue a picture by its mirror image to the right and below: a plain border would look like a defect."""
    import cv2

    down, right = canvas[0] - picture.shape[0], canvas[1] - picture.shape[1]
    if not down and not right:
        return picture
    return np.asarray(cv2.copyMakeBorder(picture, 0, down, 0, right, cv2.BORDER_REFLECT_101), dtype=np.uint8)


def _twice(pair: tuple[float, float]) -> Floats:
    return np.array([*pair, *pair], dtype=np.float32)

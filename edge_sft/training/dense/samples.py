"""Tiles to learn from and to judge by, with what is true in each; one for most pictures, many for large ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.annotations.drawing import boxes_of, label_mask
from edge_sft.data.dataset import Dataset, Item, SplitName
from edge_sft.errors import DataError
from edge_sft.preprocess.images import decode_for, read_encoded
from edge_sft.preprocess.tiling import Placement, cut, tile_mask
from edge_sft.progress import Progress
from edge_sft.recipe import Recipe

Floats = NDArray[np.float32]

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
LEAST_SEEN = 0.4  # an object of which a tile shows less than this share of its area is neither asked for nor held false
_EMPTY_SHARE = 2  # empty training tiles of marked pictures for each marked one: more only repeat the background


@dataclass(frozen=True)
class Drawn:
    """What is true in one tile, in its pixels.

    Attributes:
        boxes: float32 [n,4] xyxy.
        labels: Theirs, int64 [n], positions in the recipe's labels.
        ignored: float32 [m,4]: whatever is found there is neither right nor wrong.
        mask: uint8 [H,W], 0 = background, i + 1 = the recipe's label i; None in detection.
    """

    boxes: Floats
    labels: NDArray[np.int64]
    ignored: Floats
    mask: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Samples:
    """N tiles of P pictures of one split.

    Attributes:
        items: The pictures, [P].
        images: uint8 [N,H,W,3].
        drawn: One a tile, [N].
        picture: Which picture each tile is of, int64 [N].
        weights: float32 [N], the pictures' weights.
        scale: Pixels of a tile for one of the frame, the median over pictures (root of both sides' product).
    """

    items: tuple[Item, ...]
    images: NDArray[np.uint8]
    drawn: tuple[Drawn, ...]
    picture: NDArray[np.int64]
    weights: Floats
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.drawn)


def nothing() -> Floats:
    """Return no boxes."""
    return np.zeros((0, 4), dtype=np.float32)


def read(dataset: Dataset, recipe: Recipe, *, memory: int, progress: Progress) -> dict[SplitName, Samples]:
    """Decode and cut every picture of all splits that somebody looked at.

    A picture without a truth counts as looked at where its label is none of the task's: it shows nothing to find.

    Args:
        dataset: Pictures with their truths.
        recipe: Its geometry and labels.
        memory: RAM in bytes; tiles may take a quarter.
        progress: Told of every picture.

    Raises:
        DataError: A file fails, or the tiles do not fit into memory.
    """
    parts = {split: [item for item in dataset.split(split) if _known(item, recipe)] for split in SPLITS}
    progress.start("Reading pictures", sum(map(len, parts.values())))
    room = _Room(memory // 4, str(dataset.root))
    return {split: _read(items, recipe, room, progress, thin=split == "train") for split, items in parts.items()}


def kinds(samples: Samples, labels: int) -> NDArray[np.int64]:
    """Return what each tile is drawn for, int64 [N]: 0 = nothing to find, else the rarest of its labels + 1."""
    present = [_present(drawn) for drawn in samples.drawn]
    often = np.bincount(np.concatenate([*present, np.zeros(0, np.int64)]), minlength=labels)
    return np.array([1 + min(found, key=lambda label: often[label]) if len(found) else 0 for found in present])


class _Room:
    """Bytes that tiles may still take."""

    def __init__(self, size: int, what: str) -> None:
        self._left, self._what = size, what

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise DataError(
                self._what,
                "has more tiles than a quarter of this machine's memory holds",
                "Set a smaller image.tiles.scale, or train on fewer pictures.",
            )


def _known(item: Item, recipe: Recipe) -> bool:
    return item.truth is not None or item.label not in recipe.task.labels or item.label in recipe.task.ok


def _read(items: Sequence[Item], recipe: Recipe, room: _Room, progress: Progress, *, thin: bool) -> Samples:
    spec = recipe.image.preprocess()
    images: list[NDArray[np.uint8]] = []
    drawn: list[Drawn] = []
    picture: list[int] = []
    scales: list[float] = []
    for number, item in enumerate(items):
        frame, size = decode_for(read_encoded(item.path), spec, source=str(item.path))
        placement, tiling = cut(frame, spec, size=size)
        scales.append(float(np.sqrt(np.prod(placement.views[0].scale))))
        truth = _drawn(item, recipe, placement)
        chosen = _thinned(truth, number) if thin else range(len(truth))
        tiles = np.concatenate(list(tiling.batches()))
        room.take(len(chosen) * tiles[0].nbytes)
        images += [tiles[index] for index in chosen]
        drawn += [truth[index] for index in chosen]
        picture += [number] * len(chosen)
        progress.advance()
    stacked = np.stack(images) if images else np.zeros((0, spec.height, spec.width, 3), dtype=np.uint8)
    weights = np.array([items[number].weight for number in picture], dtype=np.float32)
    numbers = np.array(picture, dtype=np.int64)
    return Samples(tuple(items), stacked, tuple(drawn), numbers, weights, float(np.median(scales or [1.0])))


def _thinned(truth: Sequence[Drawn], number: int) -> Sequence[int]:
    """Return the tiles to learn from: all that show something, and of the others a few, not always the same."""
    marked = [index for index, drawn in enumerate(truth) if len(_present(drawn))]
    empty = [index for index in range(len(truth)) if index not in set(marked)]
    most = _EMPTY_SHARE * max(1, len(marked))
    if len(empty) > most:
        empty = np.random.default_rng([number, len(truth)]).choice(empty, most, replace=False).tolist()
    return sorted([*marked, *empty])


def _present(drawn: Drawn) -> NDArray[np.int64]:
    if drawn.mask is None:
        return np.unique(drawn.labels)
    values = np.unique(drawn.mask).astype(np.int64)
    return values[values > 0] - 1


def _drawn(item: Item, recipe: Recipe, placement: Placement) -> list[Drawn]:
    tiles = range(len(placement))
    none = np.zeros(0, dtype=np.int64)
    labels, (height, width) = recipe.task.labels, placement.frame
    if recipe.task.kind == "segmentation":
        if item.truth is None:
            return [Drawn(nothing(), none, nothing(), np.zeros(placement.tile, dtype=np.uint8)) for _ in tiles]
        mask = label_mask(item.truth, height, width, labels, item.label)
        return [Drawn(nothing(), none, nothing(), tile_mask(mask, placement, index)) for index in tiles]
    if item.truth is None:
        return [Drawn(nothing(), none, nothing()) for _ in tiles]
    found = boxes_of(item.truth, height, width, labels, item.label)
    boxes = np.array([mark.box for mark in found], dtype=np.float32).reshape(-1, 4)
    numbers = np.array([labels.index(mark.label) for mark in found], dtype=np.int64)
    crowd = np.array([mark.crowd for mark in found], dtype=np.bool_)
    return [inside(placement.to_tile(boxes, index), numbers, crowd, placement.tile) for index in tiles]


def inside(boxes: Floats, labels: NDArray[np.int64], crowd: NDArray[np.bool_], tile: tuple[int, int]) -> Drawn:
    """Return what a tile of (height, width) shows of boxes: enough of it, too little to tell, or nothing."""
    limits = np.array([tile[1], tile[0], tile[1], tile[0]], dtype=np.float32)
    clipped = np.clip(boxes, 0, limits).astype(np.float32)
    share = areas(clipped) / np.maximum(areas(boxes), 1e-6)
    seen, told = share > 0, (share >= LEAST_SEEN) & ~crowd
    return Drawn(clipped[told], labels[told], clipped[seen & ~told])


def areas(boxes: Floats) -> Floats:
    """Return the areas [n] of boxes [n,4]."""
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    return np.asarray(sides[:, 0] * sides[:, 1], dtype=np.float32)


def any_marked(masks: Sequence[NDArray[np.uint8]], cells: tuple[int, int]) -> NDArray[np.bool_]:
    """Tell which of (h, w) cells are for the most part marked, bool [N,h,w]."""
    if not masks:
        return np.zeros((0, *cells), dtype=np.bool_)
    whole = np.stack(masks) != 0
    rows, columns = whole.shape[1] // cells[0], whole.shape[2] // cells[1]
    share = whole.reshape(len(whole), cells[0], rows, cells[1], columns).mean(axis=(2, 4))
    return np.asarray(share >= 0.5, dtype=np.bool_)

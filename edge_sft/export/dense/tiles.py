"""Tiles that export looks at, with what is true in each: chosen evenly over the labels, never from test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.annotations.drawing import boxes_of, label_mask
from edge_sft.data.dataset import Dataset, Item
from edge_sft.errors import DataError
from edge_sft.export.pictures import choose
from edge_sft.preprocess import Preprocess, decode_for, read_encoded
from edge_sft.preprocess.tiling import Placement, cut, tile_mask
from edge_sft.progress import Progress
from edge_sft.task import Task

# Bounds on what is held in memory and on the time of a gate: 2,000 tiles resolve 0.05 points.
_MOST_TILES = 2000
_MOST_BYTES = 512 << 20
_LEAST_SEEN = 0.4  # an object of which a tile shows less than this share of its area is not asked for there


@dataclass(frozen=True)
class Marked:
    """What is true in one tile.

    Attributes:
        boxes: Of what is marked there, float32 [n,4] xyxy in pixels of the tile.
        labels: Theirs, int64 [n], positions in the task's labels; 0 everywhere for an anomaly.
        mask: uint8 [H,W], 0 = background, else position in the drawn labels + 1; None where nobody drew one.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    mask: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Tiles:
    """Model inputs with their truth, N tiles of P pictures.

    Attributes:
        images: uint8 [N,H,W,3].
        picture: Which picture each tile is of, int64 [N].
        good: Whether each picture shows a good part, [P].
        truth: One a tile.
        ids: Of the pictures, [P].
        groups: What each picture must stay with, [P].
    """

    images: NDArray[np.uint8]
    picture: NDArray[np.int64]
    good: NDArray[np.bool_]
    truth: tuple[Marked, ...]
    ids: tuple[str, ...]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: NDArray[np.int64] | Sequence[int]) -> Tiles:
        """Return the tiles at these positions; pictures keep their numbers."""
        chosen = np.asarray(indices, dtype=np.int64)
        truth = tuple(self.truth[index] for index in chosen)
        return Tiles(self.images[chosen], self.picture[chosen], self.good, truth, self.ids, self.groups)

    def blocks(self, size: int, name: str = "image") -> Iterator[dict[str, NDArray[np.uint8]]]:
        """Yield the graph's input by name, at most ``size`` tiles at a time."""
        for start in range(0, len(self), size):
            yield {name: self.images[start : start + size]}


@dataclass(frozen=True)
class Reader:
    """Reads pictures as a task sees them.

    Attributes:
        task: The model's.
        drawn: Labels that marks may have, in the order of their numbers; those of the recipe.
        good: Labels of pictures that show a good part.
        spec: Geometry.
    """

    task: Task
    drawn: tuple[str, ...]
    good: tuple[str, ...]
    spec: Preprocess

    def validation(self, dataset: Dataset, progress: Progress) -> Tiles:
        """Read the validation split; of a very large one, as much as memory and time allow.

        Raises:
            DataError: It is empty, or a picture went missing since the data were checked.
        """
        items = dataset.split("val")
        if not items:
            raise DataError(
                str(dataset.root),
                "has no validation pictures, so no exported variant can be proved",
                "Give data.split.val a share, or add pictures.",
            )
        return self.read(items, self.affordable(), progress, "Reading validation pictures")

    def for_ranges(self, dataset: Dataset, count: int, progress: Progress) -> Tiles:
        """Read training pictures for quantization ranges, topped up with validation ones where there are few."""
        items = list(self._usable(dataset.split("train")))
        if len(items) < count:
            items += choose(dataset.split("val"), count - len(items))
        return self.read(items, min(count, self.affordable()), progress, "Reading pictures for quantization ranges")

    def good_train(self, dataset: Dataset, count: int, progress: Progress, left_out: frozenset[str]) -> Tiles:
        """Read good training pictures but those left out: what memories are made of."""
        items = [item for item in self._usable(dataset.split("train")) if item.id not in left_out]
        return self.read(items, min(count, self.affordable()), progress, "Reading good pictures")

    def affordable(self) -> int:
        """Return how many tiles are held at most."""
        return max(32, min(_MOST_TILES, _MOST_BYTES // (self.spec.height * self.spec.width * 3)))

    def read(self, items: Sequence[Item], most: int, progress: Progress, title: str) -> Tiles:
        """Decode and cut pictures exactly as the device does, at most so many tiles: whole pictures, labels in turn.

        Raises:
            DataError: A file fails.
        """
        chosen = choose(items, most)
        progress.start(title, len(chosen))
        images: list[NDArray[np.uint8]] = []
        picture: list[int] = []
        truth: list[Marked] = []
        shown: list[Item] = []
        for item in chosen:
            if len(truth) >= most:
                break
            frame, size = decode_for(read_encoded(item.path), self.spec, source=str(item.path))
            placement, tiling = cut(frame, self.spec, size=size)
            images += tiling.batches()
            picture += [len(shown)] * len(placement)
            truth += self._marked(item, placement)
            shown.append(item)
            progress.advance()
        good = np.array([self.is_good(item) for item in shown], dtype=np.bool_)
        return Tiles(
            np.concatenate(images),
            np.array(picture, dtype=np.int64),
            good,
            tuple(truth),
            tuple(item.id for item in shown),
            tuple(item.group or item.id for item in shown),
        )

    def is_good(self, item: Item) -> bool:
        """Tell whether a picture shows a good part: by its label, or by what is marked in it."""
        if self.task.kind == "anomaly":
            return item.label in self.good
        if item.truth is None or item.truth.mask is not None:
            return item.label in self.good
        return all(mark.label in self.good for mark in item.truth.annotations)

    def _usable(self, items: Sequence[Item]) -> Sequence[Item]:
        return [item for item in items if item.label in self.good] if self.task.kind == "anomaly" else items

    def _marked(self, item: Item, placement: Placement) -> list[Marked]:
        nothing = Marked(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), None)
        if item.truth is None:
            return [nothing] * len(placement)
        drawn = (item.label,) if self.task.kind == "anomaly" else self.drawn
        height, width = placement.frame
        if self.task.kind == "detection":
            found = boxes_of(item.truth, height, width, drawn, item.label)
            boxes = np.array([mark.box for mark in found if not mark.crowd], dtype=np.float32).reshape(-1, 4)
            labels = np.array([drawn.index(mark.label) for mark in found if not mark.crowd], dtype=np.int64)
            return [_inside(boxes, labels, placement, index) for index in range(len(placement))]
        mask = label_mask(item.truth, height, width, drawn, item.label)
        return [
            Marked(nothing.boxes, nothing.labels, tile_mask(mask, placement, index)) for index in range(len(placement))
        ]


def _inside(boxes: NDArray[np.float32], labels: NDArray[np.int64], placement: Placement, index: int) -> Marked:
    """Return what of the frame's boxes a tile shows."""
    moved = placement.to_tile(boxes, index)
    height, width = placement.tile
    clipped = np.clip(moved, 0, np.array([width, height, width, height], dtype=np.float32))
    share = _areas(clipped) / np.maximum(_areas(moved), 1e-6)
    kept = share >= _LEAST_SEEN
    return Marked(clipped[kept], labels[kept], None)


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    return np.asarray(sides[:, 0] * sides[:, 1], dtype=np.float32)

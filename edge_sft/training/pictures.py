"""All pictures of a training, decoded once into fixed-size uint8; in RAM, or in a file when they are many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.dataset import Dataset, Item, SplitName
from edge_sft.durable import disk_error
from edge_sft.errors import DataError
from edge_sft.preprocess import Preprocess, read_tensor
from edge_sft.progress import Progress

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Pictures:
    """One split, decoded.

    Attributes:
        items: The samples, sorted by id.
        images: uint8 [N,H,W,3] RGB; possibly backed by a file.
        labels: int64 [N], indices into the task's labels.
        weights: float32 [N], sample weights.
    """

    items: tuple[Item, ...]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def groups(self) -> list[str]:
        """Return what must not be torn apart: an item's group, or the item itself."""
        return [item.group or item.id for item in self.items]


def decode(
    dataset: Dataset, labels: Sequence[str], spec: Preprocess, *, cache: Path, memory: int, progress: Progress
) -> dict[SplitName, Pictures]:
    """Decode and preprocess every picture of all splits.

    Args:
        dataset: Samples with their splits.
        labels: The task's labels in output order.
        spec: Geometry.
        cache: File to hold the pictures when they would take more than a quarter of ``memory``.
        memory: RAM in bytes.
        progress: Told of every picture.

    Raises:
        DataError: A picture cannot be read any more, or carries a label that the task does not have.
        DeviceError: The disk cannot hold the cache.
    """
    parts = {split: dataset.split(split) for split in SPLITS}
    shape = (sum(map(len, parts.values())), spec.height, spec.width, 3)
    images = _room(shape, cache, memory)
    progress.start("Reading pictures", shape[0])
    result: dict[SplitName, Pictures] = {}
    at = 0
    for split, items in parts.items():
        block = images[at : at + len(items)]
        at += len(items)
        for index, item in enumerate(items):
            block[index] = read_tensor(item.path, spec)
            progress.advance()
        numbers = np.array([_index(item, labels) for item in items], dtype=np.int64)
        weights = np.array([item.weight for item in items], dtype=np.float32)
        result[split] = Pictures(items, block, numbers, weights)
    return result


def _room(shape: tuple[int, ...], cache: Path, memory: int) -> NDArray[np.uint8]:
    size = int(np.prod(shape, dtype=np.int64))
    if size <= memory // 4:
        return np.empty(shape, dtype=np.uint8)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with cache.open("wb") as file:
            # reserve for real: a sparse file on a full disk would end in SIGBUS instead of one clear line
            block = bytes(1 << 24)
            for _ in range(size // len(block)):
                file.write(block)
            file.write(block[: size % len(block)])
    except OSError as error:
        cache.unlink(missing_ok=True)
        raise disk_error(cache, error) from error
    return np.memmap(cache, dtype=np.uint8, mode="r+", shape=shape)


def _index(item: Item, labels: Sequence[str]) -> int:
    try:
        return list(labels).index(item.label)
    except ValueError as error:
        raise DataError(
            item.id, f"has the label '{item.label}', which the recipe does not list", "Add it to task.labels."
        ) from error

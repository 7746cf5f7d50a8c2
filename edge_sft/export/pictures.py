"""Pictures that export looks at: chosen evenly over the classes, never from test, held as model inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.dataset import Dataset, Item
from edge_sft.errors import DataError
from edge_sft.preprocess import Preprocess, read_tensor
from edge_sft.progress import Progress
from edge_sft.task import Task

# Bounds on what is held in memory and on the time of a gate: 2,000 pictures resolve 0.05 points.
_MOST_PICTURES = 2000
_MOST_BYTES = 512 << 20
_FOR_TUNING = 512


@dataclass(frozen=True)
class Pictures:
    """Model inputs with their truth: ``images`` uint8 [N,H,W,3] RGB, ``labels`` int64 [N], ``ids`` [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, indices: NDArray[np.int64] | list[int]) -> Pictures:
        """Return the pictures at these positions."""
        chosen = [int(index) for index in indices]
        return Pictures(self.images[chosen], self.labels[chosen], tuple(self.ids[index] for index in chosen))

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the images in blocks of at most ``size``."""
        for start in range(0, len(self), size):
            yield self.images[start : start + size]


def validation(dataset: Dataset, task: Task, spec: Preprocess, progress: Progress) -> Pictures:
    """Read the validation split; of a very large one, as many as memory and time allow, evenly over the classes.

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
    return read(choose(items, _affordable(spec)), task, spec, progress, "Reading validation pictures")


def for_ranges(dataset: Dataset, task: Task, spec: Preprocess, count: int, progress: Progress) -> Pictures:
    """Read pictures for quantization ranges: training ones, topped up with validation ones where there are few."""
    chosen = choose(dataset.split("train"), min(count, _affordable(spec)))
    if len(chosen) < count:
        chosen += choose(dataset.split("val"), min(count, _affordable(spec)) - len(chosen))
    return read(chosen, task, spec, progress, "Reading pictures for quantization ranges")


def for_tuning(dataset: Dataset, task: Task, spec: Preprocess, progress: Progress) -> Pictures:
    """Read training pictures, and no others, for quantization-aware fine-tuning."""
    chosen = choose(dataset.split("train"), min(_FOR_TUNING, _affordable(spec)))
    return read(chosen, task, spec, progress, "Reading training pictures")


def choose(items: Sequence[Item], count: int) -> list[Item]:
    """Choose at most ``count`` items, the classes in turn; the same ones every time, sorted by id."""
    by_label: dict[str, list[Item]] = {}
    for item in sorted(items, key=_shuffled):
        by_label.setdefault(item.label, []).append(item)
    in_turn = [item for rank in zip_longest(*(by_label[label] for label in sorted(by_label))) for item in rank if item]
    return sorted(in_turn[:count], key=lambda item: item.id)


def read(items: Sequence[Item], task: Task, spec: Preprocess, progress: Progress, title: str) -> Pictures:
    """Decode and preprocess pictures exactly as the device does. Raises DataError naming a file that fails."""
    images = np.empty((len(items), spec.height, spec.width, 3), dtype=np.uint8)
    progress.start(title, len(items))
    for index, item in enumerate(items):
        images[index] = read_tensor(item.path, spec)
        progress.advance()
    labels = np.array([task.labels.index(item.label) for item in items], dtype=np.int64)
    return Pictures(images, labels, tuple(item.id for item in items))


def _affordable(spec: Preprocess) -> int:
    return max(32, min(_MOST_PICTURES, _MOST_BYTES // (spec.height * spec.width * 3)))


def _shuffled(item: Item) -> str:
    """Order by something that neither names nor folders influence, so that a choice is no run of one camera."""
    return hashlib.sha256(f"{item.sha256} {item.id}".encode()).hexdigest()

"""Small marked pictures: dark discs and bright bars on grey noise, boxed or masked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edge_sft.checkpoint import sha256_of
from edge_sft.data.dataset import Dataset, Item
from edge_sft.data.truth import Annotation, Truth
from edge_sft.recipe import Recipe

LABELS = ("disc", "bar")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(kind: str, **sections: object) -> Recipe:
    given: dict[str, object] = {
        "name": "toy",
        "task": {"kind": kind, "labels": list(LABELS)},
        "data": {"path": "."},
        "image": {"size": 64},
        "model": {"weights": "random"},
        "train": {"steps": 4, "batch_size": 4, "device": "cpu", "learning_rate": 0.001, "frozen_stages": 0},
    }
    return Recipe.model_validate({**given, **sections})


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    return make


@pytest.fixture
def marked(tmp_path: Path) -> Callable[..., Dataset]:
    """Draws pictures of a side of pixels; every third is good; masks for segmentation, boxes for detection."""

    def draw(
        kind: str, *, count: int = 12, side: int = 64, splits: tuple[str, ...] = ("train", "val", "test")
    ) -> Dataset:
        rng = np.random.default_rng(1)
        items = []
        for split in splits:
            for number in range(count if split == "train" else count // 2):
                picture = rng.normal(120, 10, (side, side)).clip(0, 255).astype(np.uint8)
                label = ("good", *LABELS)[number % 3]
                mask = np.zeros((side, side), np.uint8)
                x, y = rng.integers(12, side - 16, 2).tolist()
                if label == "disc":
                    cv2.circle(mask, (x, y), 6, 1, -1)
                elif label == "bar":
                    cv2.rectangle(mask, (x - 8, y - 2), (x + 8, y + 2), 2, -1)
                picture = np.where(mask == 1, 40, np.where(mask == 2, 220, picture)).astype(np.uint8)
                path = tmp_path / split / f"{number:02d}.png"
                path.parent.mkdir(exist_ok=True)
                cv2.imwrite(str(path), picture)
                items.append(
                    Item(f"{split}/{path.name}", path, label, sha256_of(path), split, truth=truth(kind, path, mask))
                )
        return Dataset(tmp_path, LABELS, tuple(items))

    return draw


def truth(kind: str, path: Path, mask: np.ndarray) -> Truth:
    if not mask.any():
        return Truth()
    if kind == "segmentation":
        file = path.with_name(f"{path.stem}_mask.png")
        cv2.imwrite(str(file), mask)
        return Truth(mask=file, values=((1, "disc"), (2, "bar")))
    left, top, width, high = cv2.boundingRect(mask)
    box = (float(left), float(top), float(left + width), float(top + high))
    return Truth((Annotation(LABELS[int(mask.max()) - 1], box),))

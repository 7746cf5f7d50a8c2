from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

RECIPE = """
name = "toy"
[task]
labels = ["scratch", "clean"]
ok = ["clean"]
[data]
path = "pictures"
[image]
size = 32
[train]
steps = {steps}
batch_size = 8
learning_rate = 0.0003
patience = 100
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(folder: Path, count: int = 24, *, seed: int = 0) -> Path:
    """Draw grey noise, half of it with a bright scratch; returns the folder of class folders."""
    rng = np.random.default_rng(seed)
    for split, share in (("train", count), ("val", count // 2), ("test", count // 2)):
        for label in ("scratch", "clean"):
            for index in range(share):
                picture = rng.normal(110, 12, (40, 40)).clip(0, 255).astype(np.uint8)
                if label == "scratch":
                    start, end = rng.integers(4, 36, 2), rng.integers(4, 36, 2)
                    cv2.line(picture, start.tolist(), end.tolist(), 190, 1)
                path = folder / split / label / f"{index:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), picture)
    return folder


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A folder with a recipe of few steps and its pictures; returns the recipe's path."""
    draw(tmp_path / "pictures")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(steps=12))
    return recipe

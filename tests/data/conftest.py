"""Small folders of pictures that look like something and differ from one another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_sft.recipe import Recipe

_TESTS = Path(__file__).resolve().parents[1]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def bombs() -> dict[str, bytes]:
    """Pictures of a few bytes that say they are huge, by suffix."""
    return dict(run_path(str(_TESTS / "contracts" / "bombs.py"))["bombs"]())


@pytest.fixture(scope="session")
def picture() -> Callable[..., NDArray[np.uint8]]:
    """Return a maker of textured pictures; equal seeds are equal pictures, others are not alike."""

    def make(seed: int, height: int = 48, width: int = 64, channels: int = 1) -> NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        rough = rng.uniform(0, 255, (6, 8)).astype(np.float32)
        grown = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 20, (height, width))
        grey = np.clip(grown, 0, 255).astype(np.uint8)
        return grey if channels == 1 else np.stack([grey, grey // 2, 255 - grey], axis=2)

    return make


@pytest.fixture(scope="session")
def save() -> Callable[..., Path]:
    """Return a writer of pictures at any path, Unicode included."""

    def write(path: Path, image: NDArray[Any], *options: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        done, content = cv2.imencode(path.suffix.lower(), image, list(options))
        assert done
        path.write_bytes(content.tobytes())
        return path

    return write


@pytest.fixture
def pool(tmp_path: Path, picture: Callable[..., Any], save: Callable[..., Path]) -> Callable[..., Path]:
    """Return a maker of class-per-folder pools: ``pool(ok=30, scratch=12)``."""

    def make(root: Path | None = None, **classes: int) -> Path:
        root = root or tmp_path / "parts"
        for number, (label, count) in enumerate(classes.items()):
            for index in range(count):
                save(root / label / f"{label}{index:03d}.png", picture(1000 * number + index))
        return root

    return make


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """Return a maker of recipes for a folder; ``split`` goes to [data.split]."""

    def make(root: Path, *labels: str, ok: tuple[str, ...] = (), manifest: Path | None = None, **split: Any) -> Recipe:
        return Recipe.model_validate(
            {
                "name": "parts",
                "task": {"labels": labels, "ok": ok},
                "data": {"path": str(root), "manifest": None if manifest is None else str(manifest), "split": split},
            }
        )

    return make


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Return where a public data set lies, or skip."""

    def find(name: str) -> Path:
        folder = SHARED / name
        if not folder.is_dir():
            pytest.skip(f"public data set {name} is not at {folder}: nothing was proved on real pictures")
        return folder

    return find

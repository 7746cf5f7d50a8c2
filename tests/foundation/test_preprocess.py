from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_sft.errors import DataError
from edge_sft.preprocess import IgnoreBox, Preprocess, image_tensor, read_image

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 1), (40, 30, 3), (40, 30, 4), (1, 1), (500, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_every_frame_becomes_the_same_shape(shape: tuple[int, ...], dtype: type, fit: str) -> None:
    frame = RNG.integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    out = image_tensor(frame, Preprocess(height=32, width=48, fit=fit))  # type: ignore[arg-type]
    assert out.shape == (32, 48, 3)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous


def test_same_size_is_left_alone() -> None:
    frame = RNG.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(image_tensor(frame, Preprocess(height=32, width=32)), frame)


def test_sixteen_bits_are_mapped_by_range() -> None:
    frame = np.array([[1000, 2000], [3000, 60000]], dtype=np.uint16).repeat(16, 0).repeat(16, 1)
    out = image_tensor(frame, Preprocess(height=32, width=32, depth_range=(1000, 3000)))
    assert sorted(set(out.flatten().tolist())) == [0, 128, 255]


def test_region_and_ignored_area() -> None:
    frame = np.zeros((100, 100), dtype=np.uint8)
    frame[:, 50:] = 200
    right = Preprocess(height=50, width=50, roi=(0.5, 0, 1, 1))
    assert (image_tensor(frame, right) == 200).all()
    hidden = right.model_copy(update={"ignore": (IgnoreBox(left=0, top=0, right=0.5, bottom=1),)})
    out = image_tensor(frame, hidden)
    assert (out[:, :24] == 127).all()
    assert (out[:, 26:] == 200).all()
    assert frame.max() == 200  # the caller's frame is not painted on


def test_pad_keeps_the_aspect() -> None:
    out = image_tensor(np.full((10, 40), 255, dtype=np.uint8), Preprocess(height=40, width=40, fit="pad"))
    assert (out[0] == 127).all()
    assert (out[20] == 255).all()


@pytest.mark.parametrize(
    "frame", [np.zeros((0, 4), np.uint8), np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8)]
)
def test_senseless_frames_are_refused(frame: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(DataError):
        image_tensor(frame, Preprocess(height=32, width=32))


def test_reading_names_the_file(tmp_path: Path) -> None:
    good = tmp_path / "gut – für.png"
    ok, content = cv2.imencode(".png", np.full((8, 8, 3), (1, 2, 3), np.uint8))
    assert ok
    good.write_bytes(content.tobytes())
    assert read_image(good)[0, 0].tolist() == [3, 2, 1]  # RGB
    for name, content_bytes in {"empty.png": b"", "text.png": b"hello"}.items():
        (tmp_path / name).write_bytes(content_bytes)
        with pytest.raises(DataError, match=name):
            read_image(tmp_path / name)
    with pytest.raises(DataError, match="missing"):
        read_image(tmp_path / "missing.png")

"""JPEGs larger than the model's input are shrunk while they are decoded; what comes out must stay the same picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_sft.preprocess import Preprocess, decode_image, encoded_tensor, image_tensor
from edge_sft.preprocess.jpeg import jpeg_header


def scene(height: int, width: int, channels: int = 3) -> np.ndarray:  # type: ignore[type-arg]
    """A smooth scene with a few sharp edges."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    layers = [127 + 80 * np.sin(x / width * (5 + c)) * np.cos(y / height * (4 + c)) for c in range(3)]
    picture = np.stack(layers, axis=2).astype(np.uint8)
    cv2.rectangle(picture, (width // 4, height // 3), (width // 2, height // 2), (20, 200, 90), -1)
    return picture if channels == 3 else picture[:, :, 0].copy()


def jpeg(picture: np.ndarray) -> bytes:  # type: ignore[type-arg]
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def turned(content: bytes, orientation: int) -> bytes:
    """Put an EXIF segment with this orientation behind the JPEG's first marker."""
    entry = b"\x12\x01\x03\x00\x01\x00\x00\x00" + bytes([orientation, 0, 0, 0])
    tiff = b"II*\x00\x08\x00\x00\x00" + b"\x01\x00" + entry + b"\x00\x00\x00\x00"
    segment = b"Exif\x00\x00" + tiff
    return content[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + content[2:]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
@pytest.mark.parametrize(
    ("size", "roi"),
    [
        ((480, 640), None),
        ((1944, 2592), None),
        ((481, 1999), None),
        ((2000, 500), (0.1, 0.2, 0.9, 0.7)),
        ((90, 70), None),
    ],
)
def test_shrunk_while_decoding_is_the_same_picture(
    size: tuple[int, int], roi: tuple[float, float, float, float] | None, fit: str, channels: int
) -> None:
    content = jpeg(scene(*size, channels))
    spec = Preprocess(height=96, width=128, fit=fit, roi=roi)  # type: ignore[arg-type]
    got = encoded_tensor(content, spec, source="x")
    want = image_tensor(decode_image(content, source="x"), spec)
    difference = np.abs(got.astype(int) - want.astype(int))
    assert got.shape == want.shape == (96, 128, 3)
    assert difference.mean() < 2.0  # edges of the rectangle fall into other pixels; a shifted picture has 10 and more


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_picture_is_turned(orientation: int) -> None:
    content = turned(jpeg(scene(600, 1200)), orientation)
    header = jpeg_header(content)
    assert header is not None
    assert header.may_turn
    spec = Preprocess(height=64, width=128)
    got = encoded_tensor(content, spec, source="x").astype(int)
    want = image_tensor(decode_image(content, source="x"), spec).astype(int)
    assert np.abs(got - want).mean() < 2.0


def test_headers() -> None:
    header = jpeg_header(jpeg(scene(48, 64)))
    assert header is not None
    assert (header.height, header.width, header.components, header.may_turn) == (48, 64, 3, False)
    assert jpeg_header(b"") is None
    assert jpeg_header(b"\x89PNG\r\n") is None
    assert jpeg_header(b"\xff\xd8\xff\xe0\x00\x00\xff\xff") is None
    whole = jpeg(scene(48, 64))
    for cut in range(2, 200):
        jpeg_header(whole[:cut])  # never raises

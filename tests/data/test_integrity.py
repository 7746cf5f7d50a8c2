from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_sft.data.integrity import damage

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)


def encoded(suffix: str, image=IMAGE) -> bytes:
    done, content = cv2.imencode(suffix, image)
    assert done
    return content.tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".bmp", ".webp", ".ppm"])
def test_whole_pictures_pass(suffix):
    assert damage(encoded(suffix)) is None


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".bmp", ".webp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_pictures_are_told(suffix, share):
    content = encoded(suffix)
    found = damage(content[: int(len(content) * share)])
    assert found is not None
    assert "truncated" in found


def test_every_single_cut_of_a_png_and_a_jpeg_is_told():
    for suffix in (".png", ".jpg"):
        content = encoded(suffix, IMAGE[:8, :8])
        assert all(damage(content[:length]) for length in range(8, len(content)))


def test_a_thumbnails_end_marker_does_not_hide_a_truncation():
    whole = encoded(".jpg")
    thumbnail = encoded(".jpg", IMAGE[:8, :8])
    exif = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    with_thumbnail = whole[:2] + exif + whole[2:]
    assert damage(with_thumbnail) is None
    assert "truncated" in (damage(with_thumbnail[: len(with_thumbnail) // 2]) or "")


def test_bytes_behind_the_end_are_no_damage():
    assert damage(encoded(".jpg") + b"camera's own trailer") is None
    assert damage(encoded(".png") + b"\0" * 100) is None


def test_a_flipped_bit_in_a_png_is_told():
    content = bytearray(encoded(".png"))
    content[len(content) // 2] ^= 1
    assert "checksum" in (damage(bytes(content)) or "")


def test_empty_and_zeroed_files():
    assert damage(b"") == "is an empty file"
    assert "zero bytes" in (damage(b"\0" * 5000) or "")


def test_tiled_and_big_endian_headers_do_not_crash():
    rng = np.random.default_rng(1)
    for magic in (b"II*\0", b"MM\0*", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"RIFF"):
        for length in (0, 1, 3, 8, 20, 60, 400):
            damage(magic + rng.integers(0, 256, length, dtype=np.uint8).tobytes())

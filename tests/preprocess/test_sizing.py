"""Decompression bombs are refused by their header; real pictures of every kind are measured as OpenCV decodes them."""

from __future__ import annotations

import time
from pathlib import Path
from runpy import run_path

import cv2
import numpy as np
import pytest

from edge_sft.errors import DataError
from edge_sft.preprocess import Preprocess, decode_image, read_encoded, read_tensor
from edge_sft.preprocess.sizing import LIMIT_BYTES, picture_size

resource = pytest.importorskip("resource", reason="Windows does not tell a process's peak memory")
bombs = run_path(str(Path(__file__).parents[1] / "contracts" / "bombs.py"))["bombs"]
BOMBS: dict[str, bytes] = bombs()
COLOUR = np.random.default_rng(0).integers(0, 256, (37, 61, 3), np.uint8)
GREY = COLOUR[:, :, 0].copy()


def encoded(suffix: str, picture: np.ndarray) -> bytes:  # type: ignore[type-arg]
    if not cv2.haveImageWriter(f"x{suffix}"):
        pytest.skip(f"this OpenCV ({cv2.__version__}) writes no {suffix}: that its size is told right is not proved")
    return cv2.imencode(suffix, picture)[1].tobytes()


@pytest.mark.parametrize("suffix", sorted(BOMBS))
def test_a_bomb_is_refused_before_it_is_decoded(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(BOMBS[suffix])
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(DataError) as refused:
        read_tensor(path, Preprocess(height=224, width=224))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB; decoded they take gigabytes
    assert time.process_time() - began < 1.0
    side = 16383 if suffix == ".webp" else 30000
    assert refused.value.thing == str(path)
    assert f"{side} × {side} pixels" in refused.value.fact
    assert "512 MiB" in refused.value.fact
    assert "scale it down" in refused.value.remedy


def test_a_png_whose_chunk_claims_gigabytes_is_refused() -> None:
    whole = encoded(".png", COLOUR)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="not a readable picture"):
        decode_image(whole[:33] + b"\xf0\0\0\0" + whole[37:], source="x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    _measured(whole + b"the camera's own notes" * 9)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_bombs_of_the_same_make_that_are_small_do_decode(suffix: str) -> None:
    assert decode_image(bombs(300)[suffix], source="x").shape[:2] == (300, 300)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp", ".webp", ".gif", ".jp2", ".avif"])
def test_colour_pictures_are_measured_as_they_decode(suffix: str) -> None:
    _measured(encoded(suffix, COLOUR))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp", ".webp", ".jp2", ".pgm"])
def test_grey_pictures_are_measured_as_they_decode(suffix: str) -> None:
    content = encoded(suffix, GREY)
    _measured(content)
    if suffix in {".jpg", ".png", ".tif", ".bmp", ".pgm"}:
        assert picture_size(content) == (37, 61, 1)  # a line-scan picture is not counted as colour


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2", ".ppm"])
def test_deep_pictures_are_measured_as_they_decode(suffix: str) -> None:
    _measured(encoded(suffix, COLOUR.astype(np.uint16) * 257))


def test_transparent_float_and_hand_made_pictures() -> None:
    _measured(encoded(".png", np.dstack([COLOUR, GREY])))
    _measured(encoded(".tif", COLOUR.astype(np.float32)))
    _measured(b"P2 # a comment\r3 #another\n2\n9 0 1 2 3 4 5\n")
    _measured(b"P4\n16 2\n\x00\xff\x00\xff")
    flipped = bytearray(encoded(".bmp", COLOUR))
    flipped[22:26] = (-37).to_bytes(4, "little", signed=True)
    _measured(bytes(flipped))


def _measured(content: bytes) -> None:
    decoded, size = decode_image(content, source="x"), picture_size(content)
    assert size is not None
    assert (size.height, size.width) == decoded.shape[:2]
    assert size.height * size.width * size.pixel_bytes >= decoded.nbytes


def test_damaged_avif_headers_never_crash() -> None:
    content = encoded(".avif", GREY)
    rng = np.random.default_rng(1)
    for cut in range(0, len(content), 3):
        picture_size(content[:cut])
        broken = bytearray(content)
        broken[cut] = int(rng.integers(0, 256))
        picture_size(bytes(broken))


def test_big_tiff_huge_tiles_and_boxed_jpeg_2000() -> None:
    def big(*tags: tuple[int, int]) -> bytes:
        entries = b"".join(
            tag.to_bytes(2, "big") + b"\0\4" + (1).to_bytes(8, "big") + value.to_bytes(4, "big") + bytes(4)
            for tag, value in tags
        )
        return b"MM\0+\0\x08\0\0" + (16).to_bytes(8, "big") + len(tags).to_bytes(8, "big") + entries

    assert picture_size(big((256, 50), (257, 40), (258, 16), (277, 3))) == (40, 50, 6)
    assert picture_size(big((256, 50), (257, 40), (258, 8), (262, 1), (322, 60_000), (323, 70_000))) == (
        70_000,
        60_000,
        1,
    )
    boxed = encoded(".jp2", COLOUR)
    assert boxed[4:8] == b"jP  "
    assert picture_size(boxed) == (37, 61, 12)


def test_a_jpeg_with_rubbish_between_its_segments_does_not_hide_its_size() -> None:
    bomb = BOMBS[".jpg"]
    assert picture_size(bomb[:2] + b"\x00rubbish\xff\x00\xff\xff\xd0" + bomb[2:]) == (30_000, 30_000, 3)


def test_a_line_scan_picture_of_the_limits_size_is_let_through() -> None:
    lines = b"P5 16384 32768 255\n"
    assert np.prod(picture_size(lines)) == LIMIT_BYTES  # type: ignore[arg-type]
    with pytest.raises(DataError, match="not a readable picture"):  # the decoder's word: its pixels are missing
        decode_image(lines, source="x")
    with pytest.raises(DataError, match="1,048,576 a side"):
        decode_image(b"P5 1 1048577 255\n0", source="x")


def test_damaged_headers_never_crash_nor_reach_the_decoder() -> None:
    rng = np.random.default_rng(1)
    for content in [*BOMBS.values(), encoded(".jp2", GREY)]:
        for cut in range(120):
            picture_size(content[:cut])
        for _ in range(300):
            broken = bytearray(content[:400])
            broken[int(rng.integers(0, len(broken)))] = int(rng.integers(0, 256))
            picture_size(bytes(broken))
    for unknown in (b"#?RADIANCE\n", b"P7\nWIDTH 9", b"\x59\xa6\x6a\x95", b"PF\n9 9\n", b"8BPS"):
        with pytest.raises(DataError, match="not a readable picture"):
            decode_image(unknown + bytes(99), source="x")


def test_a_file_too_long_to_be_a_picture_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    with path.open("wb") as file:
        file.truncate(2 * LIMIT_BYTES + 1)
    with pytest.raises(DataError, match="at most 1,024 MiB are read"):
        read_encoded(path)

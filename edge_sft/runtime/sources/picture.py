"""One picture file → one Sample; what cannot be read becomes a Sample with its fault, never an exception."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge_sft.errors import DataError
from edge_sft.prediction import Encoded, Sample

# What OpenCV's headless wheels decode; other files in a folder are left alone.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm"})


def is_picture(name: str) -> bool:
    """Tell by the name whether a file is a finished picture (hidden and half-written names are not)."""
    return not name.startswith((".", "~")) and Path(name).suffix.lower() in SUFFIXES


def read_sample(path: Path, stream: str, *, seen_monotonic_s: float | None = None) -> Sample:
    """Read a file into a Sample; a JPEG stays as it is until the model's input size is known.

    Args:
        path: The picture.
        stream: Name that the Sample carries.
        seen_monotonic_s: When it was first seen; now when None. Latency and deadline count from there.

    Returns:
        A Sample; with ``data=None`` and ``fault`` when the file is missing, truncated or no picture.
    """
    now, utc = time.monotonic(), datetime.now(timezone.utc)
    captured = now if seen_monotonic_s is None else seen_monotonic_s
    data, fault = _decode(path)
    return Sample(data, utc, captured, stream, name=path.name, fault=fault)


def _decode(path: Path) -> tuple[NDArray[Any] | Encoded | None, str | None]:
    from edge_sft.preprocess import decode_image, read_encoded
    from edge_sft.preprocess.jpeg import jpeg_header

    try:
        content = read_encoded(path)
        if is_truncated(content):
            return None, "picture is truncated"
        if jpeg_header(content) is not None:
            return Encoded(content), None
        return decode_image(content, source=path.name), None
    except DataError as error:
        return None, f"picture {error.fact}. {error.remedy}"


def is_truncated(content: bytes) -> bool:
    """Tell whether a JPEG or PNG lacks its end (OpenCV decodes half a JPEG and paints the rest grey)."""
    if content[:2] == b"\xff\xd8":
        # Entropy-coded data never holds FF D9: an end mark after the last scan's start closes the main picture,
        # whatever the embedded thumbnail before it or a camera's notes after it contain.
        return content.rfind(b"\xff\xd9", max(content.rfind(b"\xff\xda"), 0)) < 0
    if content[:4] == b"\x89PNG":
        return content.rfind(b"IEND", max(len(content) - 65536, 0)) < 0
    return False

"""Read, hash, decode and measure one picture file."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.data import integrity
from edge_sft.data.dataset import PictureFacts
from edge_sft.errors import DataError
from edge_sft.preprocess import decode_image, read_encoded

THUMBNAIL_SIDE = 32
DETAIL_SIDE = 96
_FINE = 2.5  # pixels of the detail: what a wider blur leaves is shading
_DETAIL_LEVEL = 24.0  # deviation of the detail
_FLAT = 0.6  # grey levels of 255: below this deviation a thumbnail shows rounding and noise, no structure


@dataclass(frozen=True)
class Seen:
    """A picture that decoded: SHA-256 of the file, and what it looks like."""

    sha256: str
    facts: PictureFacts


def look(path: Path) -> Seen | str:
    """Read one picture file from end to end. Returns what was seen, or in words why it cannot be used."""
    try:
        content = _content(path)
        if content is None:
            return "is not a regular file"
        problem = integrity.damage(content)
        if problem is not None:
            return problem
        frame = decode_image(content, source=path.name)
    except (OSError, ValueError) as error:  # ValueError: a manifest's path with a zero byte in it
        return _words(path, error)
    except DataError as error:
        return f"{error.fact}. {error.remedy}"
    if frame.dtype not in (np.uint8, np.uint16):
        return f"has {frame.dtype} pixels; convert it to 8 or 16 bits a channel"
    if frame.ndim == 3 and frame.shape[2] not in (1, 3, 4):
        return f"has {frame.shape[2]} channels; pictures are grey or RGB"
    return Seen(hashlib.sha256(content).hexdigest(), measure(frame))


def look_all(paths: Iterable[Path]) -> Iterator[Seen | str]:
    """`look` at many files with a few threads, in order, holding only a few pictures in memory at a time."""
    workers = min(8, os.cpu_count() or 1)
    waiting = iter(paths)
    with ThreadPoolExecutor(workers, thread_name_prefix="look") as pool:
        pending = [pool.submit(look, path) for path in islice(waiting, 4 * workers)]
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(look, path) for path in islice(waiting, 1)]


def measure(frame: NDArray[Any]) -> PictureFacts:
    """Measure a decoded frame, uint8 or uint16, [H, W] or [H, W, 3]."""
    import cv2

    grey = cv2.cvtColor(frame[:, :, :3], cv2.COLOR_RGB2GRAY) if frame.ndim == 3 and frame.shape[2] >= 3 else frame
    grey = grey.reshape(grey.shape[:2])
    high = int(frame.max())
    bits = 8 if frame.dtype == np.uint8 else 16
    to_255 = 1.0 if bits == 8 else 255.0 / 65535.0
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(grey))
    laplacian = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))[1]
    return PictureFacts(
        height=int(frame.shape[0]),
        width=int(frame.shape[1]),
        channels=int(frame.shape[2]) if frame.ndim == 3 else 1,
        bits=bits,
        low=int(frame.min()),
        high=high,
        mean=mean * to_255,
        contrast=deviation * to_255,
        focus=float(laplacian[0, 0] * to_255) ** 2,
        thumbnail=_thumbnail(grey),
        detail=_detail(grey),
    )


def _thumbnail(grey: NDArray[Any]) -> bytes:
    """Shrink to 32 x 32 with mean 0 and deviation 1, so that exposure and gain do not matter."""
    import cv2

    side = THUMBNAIL_SIDE
    height, width = grey.shape
    if height > 16 * side and width > 16 * side:  # whole pixels first: a float copy of 12 megapixels is slow
        grey = cv2.resize(grey, (8 * side, 8 * side), interpolation=cv2.INTER_AREA)
    small = cv2.resize(np.asarray(grey, np.float32), (side, side), interpolation=cv2.INTER_AREA)
    deviation = float(small.std())
    if deviation < _FLAT * (1.0 if grey.dtype == np.uint8 else 8.0):
        return b""
    level = 128.0 + 32.0 * (small - float(small.mean())) / deviation
    return bytes(np.clip(np.rint(level), 0, 255).astype(np.uint8).tobytes())


def _detail(grey: NDArray[Any]) -> bytes:
    """Shrink to 96 x 96 without shading, deviation 24, so that two pictures can be compared closely."""
    import cv2

    side = DETAIL_SIDE
    if min(grey.shape) > 8 * side:
        grey = cv2.resize(grey, (4 * side, 4 * side), interpolation=cv2.INTER_AREA)
    small = cv2.resize(np.asarray(grey, np.float32), (side, side), interpolation=cv2.INTER_AREA)
    fine = small - cv2.GaussianBlur(small, (0, 0), _FINE, borderType=cv2.BORDER_REFLECT)
    level = fine * (_DETAIL_LEVEL / max(float(fine.std()), 1e-6))
    return bytes(np.clip(np.rint(level), -127, 127).astype(np.int8).tobytes())


def _content(path: Path) -> bytes | None:
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
        return None
    return read_encoded(path)


def _words(path: Path, error: Exception) -> str:
    if os.path.islink(path) and not os.path.exists(path):  # noqa: PTH110, PTH114 - these two never raise
        return "is a link that leads nowhere"
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"

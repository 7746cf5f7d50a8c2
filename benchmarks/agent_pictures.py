"""Pictures for the agent's benchmarks: real ones of ../shared/data, enlarged, with a little sensor noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def real_pictures(count: int, width: int, height: int) -> Iterator[Any]:
    """Yield uint8 RGB [height, width, 3]; noise where there is no data."""
    import cv2

    rng = np.random.default_rng(0)
    files = sorted(DATA.glob("magnetic_tile/images/*/*"))[::3] + sorted(DATA.glob("neu_det/images/**/*.jpg"))[::3]
    for number in range(count):
        frame = cv2.imread(str(files[number % len(files)])) if files else None
        if frame is None:
            frame = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        large = cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        yield np.clip(large + rng.integers(-4, 5, large.shape, dtype=np.int16), 0, 255).astype(np.uint8)


def write_jpegs(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """Write that many JPEGs (quality 90) and return them in order."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, frame in enumerate(real_pictures(count, width, height)):
        paths.append(folder / f"{number:05d}.jpg")
        cv2.imwrite(str(paths[-1]), frame, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return paths

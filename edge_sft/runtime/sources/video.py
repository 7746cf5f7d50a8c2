"""A video file through OpenCV, frame by frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_sft.errors import DataError, UserError
from edge_sft.prediction import Sample
from edge_sft.preprocess import require_opencv
from edge_sft.runtime.config import VideoSource
from edge_sft.runtime.sources.pacing import Pace
from edge_sft.runtime.sources.protocol import SourceEnded, SourceStatus


class VideoFile:
    """Source over one video file; frames are named by their number."""

    live = False

    def __init__(self, path: Path, stream: str, *, loop: bool, rate: float | None) -> None:
        self._path = path
        self._stream = stream
        self._loop = loop
        self._pace = Pace(rate)
        self._closed = threading.Event()
        self._capture = _open(path)
        self._frame = 0

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next frame."""
        import cv2

        if not self._pace.wait(timeout_s, self._closed):
            return None
        arrived, frame = self._capture.read()
        if not arrived and self._loop and self._frame:
            self._capture.release()
            self._capture, self._frame = _open(self._path), 0
            arrived, frame = self._capture.read()
        if not arrived:
            raise SourceEnded
        self._frame += 1
        rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if frame.ndim == 3 else frame
        name = f"{self._path.name}#{self._frame}"
        return Sample(rgb, datetime.now(timezone.utc), time.monotonic(), self._stream, name=name)

    def settle(self, samples: Iterable[Sample]) -> None:
        """Nothing to remember: a restart begins anew."""

    @property
    def status(self) -> SourceStatus:
        """Always there."""
        return SourceStatus(True)

    def close(self) -> None:
        """Stop a read that waits."""
        self._closed.set()


def _open(path: Path) -> Any:
    import cv2

    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise DataError(str(path), "is not a video that OpenCV can read", "Convert it, e.g. to MJPEG in .avi.")
    return capture


def open_source(config: VideoSource, *, stream: str, state: Path) -> VideoFile:
    """Open the video. Raises UserError when it is missing, DataError when OpenCV cannot read it."""
    del state
    require_opencv()
    if not config.path.is_file():
        raise UserError(str(config.path), "does not exist", "Check 'path' of the pipeline's source.")
    return VideoFile(config.path, stream, loop=config.loop, rate=config.rate)

"""Frames from Python: for programs that embed a pipeline, and for tests. Not to be named in agent.toml."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from numpy.typing import NDArray

from edge_sft.prediction import Sample
from edge_sft.runtime.sources.pacing import Pace
from edge_sft.runtime.sources.protocol import SourceEnded, SourceStatus


class IteratorSource:
    """Source over any iterable of frames ([H, W] or [H, W, 3] RGB, uint8 or uint16) or of finished Samples."""

    live = False

    def __init__(self, frames: Iterable[NDArray[Any] | Sample], stream: str, *, rate: float | None = None) -> None:
        self._frames = iter(frames)
        self._stream = stream
        self._pace = Pace(rate)
        self._closed = threading.Event()
        self._count = 0

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next frame."""
        if not self._pace.wait(timeout_s, self._closed):
            return None
        try:
            frame = next(self._frames)
        except StopIteration:
            raise SourceEnded from None
        self._count += 1
        if isinstance(frame, Sample):
            return frame
        utc, now = datetime.now(timezone.utc), time.monotonic()
        return Sample(frame, utc, now, self._stream, name=str(self._count))

    def settle(self, samples: Iterable[Sample]) -> None:
        """Nothing to remember."""

    @property
    def status(self) -> SourceStatus:
        """Always there."""
        return SourceStatus(True)

    def close(self) -> None:
        """Stop a read that waits."""
        self._closed.set()

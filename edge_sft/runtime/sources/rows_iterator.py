"""Sensor rows from Python: for programs that embed a pipeline, and for tests. Not to be named in agent.toml."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from datetime import datetime, timezone

from edge_sft.prediction import Rows, Sample
from edge_sft.runtime.sources.pacing import Pace
from edge_sft.runtime.sources.protocol import SourceEnded, SourceStatus


class RowsIterator:
    """Source over any iterable of `Rows` or of finished Samples; None in it means that nothing is there yet."""

    live = False

    def __init__(self, rows: Iterable[Rows | Sample | None], stream: str, *, rate: float | None = None) -> None:
        self._rows = iter(rows)
        self._stream = stream
        self._pace = Pace(rate)
        self._closed = threading.Event()

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next rows."""
        if not self._pace.wait(timeout_s, self._closed):
            return None
        try:
            one = next(self._rows)
        except StopIteration:
            raise SourceEnded from None
        if one is None or isinstance(one, Sample):
            return one
        return Sample(one, datetime.now(timezone.utc), time.monotonic(), self._stream)

    def settle(self, samples: Iterable[Sample]) -> None:
        """Nothing to remember."""

    @property
    def status(self) -> SourceStatus:
        """Always there."""
        return SourceStatus(True)

    def close(self) -> None:
        """Stop a read that waits."""
        self._closed.set()

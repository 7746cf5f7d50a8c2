"""A source that could not be opened, or broke, is tried again for ever: one bad source never ends the agent."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable

from edge_sft.errors import EdgeSftError
from edge_sft.prediction import Sample
from edge_sft.runtime.sources.protocol import Source, SourceEnded, SourceStatus

_LONGEST_PAUSE_S = 30.0


class ReopeningSource:
    """Wraps how to open a source. Errors become its status; `SourceEnded` alone passes through."""

    def __init__(self, open_it: Callable[[], Source], *, live: bool, first_pause_s: float = 1.0) -> None:
        self.live = live
        self._open_it = open_it
        self._first_pause_s = self._pause_s = first_pause_s
        self._source: Source | None = None
        self._trouble = ""
        self._retry_at_s = 0.0
        self._closed = threading.Event()

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next Sample; None while there is no working source."""
        source = self._working()
        if source is None:
            self._closed.wait(min(timeout_s, max(self._retry_at_s - time.monotonic(), 0.001)))
            return None
        try:
            sample = source.read(timeout_s)
        except SourceEnded:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a driver raises, other pipelines go on
            self._failed(error)
            return None
        if sample is not None:
            self._pause_s = self._first_pause_s
        return sample

    def _working(self) -> Source | None:
        if self._source is None and time.monotonic() >= self._retry_at_s and not self._closed.is_set():
            try:
                self._source, self._trouble = self._open_it(), ""
            except Exception as error:  # noqa: BLE001  # as above
                self._failed(error)
        return self._source

    def _failed(self, error: Exception) -> None:
        self._trouble = str(error) if isinstance(error, EdgeSftError) else f"{type(error).__name__}: {error}"
        if self._source is not None:
            self._source.close()
        self._source = None
        self._retry_at_s = time.monotonic() + self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311  # jitter
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def settle(self, samples: Iterable[Sample]) -> None:
        """Pass on."""
        if self._source is not None:
            self._source.settle(samples)

    @property
    def status(self) -> SourceStatus:
        """The wrapped source's, or why there is none."""
        source = self._source
        if source is None:
            return SourceStatus(not self._trouble, self._trouble or "not opened yet")
        return source.status

    def close(self) -> None:
        """Close for good."""
        self._closed.set()
        if self._source is not None:
            self._source.close()

"""Counting what a pipeline does."""

from __future__ import annotations

import threading
import time
from collections import deque


class Meter:
    """Counts of one pipeline and its newest latencies, for the metrics topic. Thread-safe."""

    def __init__(self, keep: int = 1000) -> None:
        self._lock = threading.Lock()
        self._latencies_ms: deque[float] = deque(maxlen=keep)
        self._counts: dict[str, int] = {}
        self._window_started_s = time.monotonic()
        self._window_decisions = 0
        self.last_decision_s: float | None = None

    def count(self, what: str, by: int = 1) -> None:
        """Add to a named counter."""
        with self._lock:
            self._counts[what] = self._counts.get(what, 0) + by

    def decision(self, verdict: str, latency_ms: float) -> None:
        """Note one decision."""
        with self._lock:
            self._counts["decisions"] = self._counts.get("decisions", 0) + 1
            self._counts[verdict] = self._counts.get(verdict, 0) + 1
            self._latencies_ms.append(latency_ms)
            self._window_decisions += 1
            self.last_decision_s = time.monotonic()

    @property
    def counts(self) -> dict[str, int]:
        """All counters: ``decisions``, each verdict, ``dropped``."""
        with self._lock:
            return dict(self._counts)

    def read(self) -> tuple[float, float | None, float | None]:
        """Return (decisions per second since the last call, p50 and p99 latency in ms of the newest)."""
        with self._lock:
            now = time.monotonic()
            rate = self._window_decisions / max(now - self._window_started_s, 1e-6)
            self._window_started_s, self._window_decisions = now, 0
            ordered = sorted(self._latencies_ms)
        if not ordered:
            return rate, None, None
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        return rate, ordered[len(ordered) // 2], p99

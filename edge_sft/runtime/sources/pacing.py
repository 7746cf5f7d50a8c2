"""Giving frames at a steady rate, so that files can stand in for a camera."""

from __future__ import annotations

import threading
import time


class Pace:
    """Waits until the next frame is due. Late frames are not made up for by a burst longer than one second."""

    def __init__(self, rate: float | None) -> None:
        self._period_s = 0.0 if rate is None else 1.0 / rate
        self._due_s = time.monotonic()

    def wait(self, timeout_s: float, closed: threading.Event) -> bool:
        """Return True when a frame is due within the time; the frame then counts as given."""
        if self._period_s == 0.0:
            return not closed.is_set()
        now = time.monotonic()
        self._due_s = max(self._due_s, now - 1.0)
        if self._due_s > now and closed.wait(min(self._due_s - now, timeout_s)):
            return False
        if time.monotonic() < self._due_s:
            return False
        self._due_s += self._period_s
        return True

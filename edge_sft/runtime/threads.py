"""A handful of threads that must not die: what kills one is told, and it is started again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 60.0
_WELL_S = 60.0  # one that ran so long before it died is started again after a short pause


class Threads:
    """Threads of one pipeline.

    Args:
        owner: Goes before their names.
        stopping: When set, nothing is started again.
        tell: Told (kind, sentence) when one died.
    """

    def __init__(self, owner: str, stopping: threading.Event, tell: Callable[[str, str], None]) -> None:
        self._owner = owner
        self._stopping = stopping
        self._tell = tell
        self._threads: dict[str, threading.Thread] = {}

    def start(self, name: str, body: Callable[[], None]) -> None:
        """Start a thread; it ends when its body returns."""
        thread = threading.Thread(target=self._guarded, args=(name, body), name=f"{self._owner}/{name}", daemon=True)
        self._threads[name] = thread
        thread.start()

    def alive(self, name: str) -> bool:
        """Tell whether a thread was started and has not ended."""
        thread = self._threads.get(name)
        return thread is not None and thread.is_alive()

    def join(self, deadline_s: float, *names: str) -> bool:
        """Wait for those named (default: all) until a time of the monotonic clock; True when they have ended."""
        threads = [self._threads[name] for name in names or self._threads if name in self._threads]
        for thread in threads:
            thread.join(max(deadline_s - time.monotonic(), 0.1))
        return not any(thread.is_alive() for thread in threads)

    def _guarded(self, name: str, body: Callable[[], None]) -> None:
        pause_s = 1.0
        while True:
            began_s = time.monotonic()
            try:
                body()
                return
            except Exception as error:
                log.exception("%s/%s died", self._owner, name)
                what = f"{self._owner}/{name} died ({type(error).__name__}: {error}); it is started again"
                self._tell("thread_died", what)
            if time.monotonic() - began_s > _WELL_S:
                pause_s = 1.0
            if self._stopping.wait(pause_s):
                return
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

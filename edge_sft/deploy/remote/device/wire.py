"""Frames in (a JSON line, then ``size`` bytes), JSON lines out; and noticing that nobody is there any more."""

from __future__ import annotations

import json
import os
import queue
import select
import threading
from collections.abc import Callable
from typing import Any

_FRAME_MAX = 1 << 20
_READ = 1 << 16


class Refusal(Exception):
    """What the device cannot do, as thing, fact and remedy; ``kind`` names the class of error over there."""

    def __init__(self, kind: str, thing: str, fact: str, remedy: str = "") -> None:
        super().__init__(thing, fact, remedy)
        self.words = {"kind": kind, "thing": thing, "fact": fact, "remedy": remedy}


class Wire:
    """Standard input and output as a conversation; a thread reads ahead and answers pings.

    Args:
        silence_s: So long without a byte, and the link counts as cut.
        heard: Called for every ping, so that others can see that this link lives.
        lost: Called when the link is cut; must not return to what it interrupts.
    """

    def __init__(
        self, silence_s: float, heard: Callable[[], None], lost: Callable[[], None], source: int = 0, sink: int = 1
    ) -> None:
        self._silence_s, self._heard, self._lost = silence_s, heard, lost
        self._source, self._sink = source, sink
        self._buffer = bytearray()
        self._frames: queue.Queue[tuple[dict[str, Any], bytes]] = queue.Queue(maxsize=8)
        self._speaking = threading.Lock()
        self._thread = threading.Thread(target=self._read_on, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def next(self) -> tuple[dict[str, Any], bytes]:
        """Return the next request and its bytes; waits for it."""
        return self._frames.get()

    def say(self, message: dict[str, Any]) -> None:
        """Send one line; a link that is cut is noticed by the reader."""
        line = json.dumps(message).encode() + b"\n"
        with self._speaking:
            try:
                while line:
                    line = line[os.write(self._sink, line) :]
            except OSError:
                self._lost()

    def _read_on(self) -> None:
        try:
            while True:
                head = json.loads(self._line())
                data = self._bytes(int(head.get("size", 0)))
                if head["op"] == "ping":
                    self._heard()
                    self.say({"pong": True})
                else:
                    self._frames.put((head, data))
        except (EOFError, ValueError, KeyError):
            self._lost()

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            self._fill()
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        return line

    def _bytes(self, count: int) -> bytes:
        if not 0 <= count <= _FRAME_MAX:
            raise ValueError(count)
        while len(self._buffer) < count:
            self._fill()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def _fill(self) -> None:
        ready, _, _ = select.select([self._source], [], [], self._silence_s)
        more = os.read(self._source, _READ) if ready else b""
        if not more or len(self._buffer) > 2 * _FRAME_MAX:
            raise EOFError
        self._buffer += more

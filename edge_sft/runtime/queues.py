"""The bounded queues of Samples in front of the model, and the way back into order behind it.

Memory never grows: the queue holds at most ``size`` Samples, the orderer at most ``ahead_max`` decisions.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from edge_sft.prediction import Sample

Claim = TypeVar("Claim")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Numbered:
    """A Sample that left the queue, with its place in the stream (contiguous from 0)."""

    number: int
    sample: Sample


class SampleQueue:
    """Bounded queue with a stated policy: ``block`` holds the source back, ``latest`` drops the oldest Sample.

    Every Sample that leaves, taken or dropped, gets the next number under one lock, so that order is decided once.
    """

    def __init__(self, size: int, policy: Literal["latest", "block"]) -> None:
        self._size = size
        self._policy = policy
        self._samples: deque[Sample] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._next = 0

    def put(self, sample: Sample, timeout_s: float) -> tuple[bool, Numbered | None]:
        """Add a Sample.

        Returns:
            (accepted, dropped): not accepted when ``block`` found no room within the time or the queue is closed;
            ``dropped`` is the oldest Sample that had to go under ``latest``.
        """
        with self._changed:
            if self._policy == "block":
                self._changed.wait_for(lambda: len(self._samples) < self._size or self._closed, timeout_s)
                if len(self._samples) >= self._size:
                    return False, None
            if self._closed:
                return False, None
            dropped = self._pop() if len(self._samples) >= self._size else None
            self._samples.append(sample)
            self._changed.notify_all()
        return True, dropped

    def refuse(self, sample: Sample) -> Numbered:
        """Number a Sample that never waits in the queue: its answer is known already."""
        with self._changed:
            return self._number(sample)

    def take(self, timeout_s: float, claim: Callable[[], Claim]) -> tuple[Numbered, Claim] | None:
        """Take the oldest Sample, or None when none came within the time.

        ``claim`` is called under the queue's lock: what it returns (the model in charge) changes between two
        Samples in the order of their numbers, whichever worker gets them.
        """
        with self._changed:
            self._changed.wait_for(lambda: bool(self._samples) or self._closed, timeout_s)
            if not self._samples:
                return None
            taken = self._pop()
            claimed = claim()
            self._changed.notify_all()
        return taken, claimed

    def _pop(self) -> Numbered:
        return self._number(self._samples.popleft())

    def _number(self, sample: Sample) -> Numbered:
        self._next += 1
        return Numbered(self._next - 1, sample)

    def close(self) -> None:
        """Accept nothing more; what is inside can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def drained(self) -> bool:
        """Closed and empty."""
        with self._changed:
            return self._closed and not self._samples

    def __len__(self) -> int:
        with self._changed:
            return len(self._samples)


class Ready(Generic[Item]):
    """Items that are prepared and wait for a free model; room is reserved before an item is prepared.

    Args:
        ahead: Most items reserved and not yet taken.
        producers: How many threads put items; when each has said `leave`, `take` ends.
    """

    def __init__(self, ahead: int, producers: int) -> None:
        self._room = threading.Semaphore(ahead)
        self._items: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._producers = producers

    def reserve(self, timeout_s: float) -> bool:
        """Wait for room for one item. Follow with `put`, or with `free`."""
        return self._room.acquire(timeout=timeout_s)

    def free(self) -> None:
        """Give reserved room back."""
        self._room.release()

    def put(self, item: Item) -> None:
        """Hand an item over."""
        self._items.put(item)

    def take(self) -> Item | None:
        """Wait for the next item; None when no more will come."""
        item = self._items.get()
        if item is None:
            self._items.put(None)  # for the next one who asks
        else:
            self._room.release()
        return item

    def leave(self) -> None:
        """Say that this thread puts no more."""
        with self._lock:
            self._producers -= 1
            if not self._producers:
                self.close()

    def close(self) -> None:
        """End `take` after what was put: no thread puts any more, also one that died without leaving."""
        self._items.put(None)


class InOrder(Generic[Item]):
    """Hands items on in the order of their numbers, whatever order they come in. Thread-safe.

    When one number is missing while ``ahead_max`` later ones wait (a worker hangs in a driver), they go on without
    it; it is handed on when it comes.
    """

    def __init__(self, forward: Callable[[Item], None], ahead_max: int = 1024) -> None:
        self._forward = forward
        self._ahead_max = ahead_max
        self._lock = threading.Lock()
        self._waiting: dict[int, Item | None] = {}
        self._next = 0

    def put(self, number: int, item: Item | None) -> None:
        """Give the item of a number; None when there is nothing to hand on for it."""
        with self._lock:
            if number < self._next:
                if item is not None:
                    self._forward(item)
                return
            self._waiting[number] = item
            if len(self._waiting) > self._ahead_max:
                self._next = min(self._waiting)
            while self._next in self._waiting:
                ready = self._waiting.pop(self._next)
                self._next += 1
                if ready is not None:
                    self._forward(ready)

    def __len__(self) -> int:
        with self._lock:
            return len(self._waiting)

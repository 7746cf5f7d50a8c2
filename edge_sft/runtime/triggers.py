"""Triggers: one trigger, one decision, always — also when there is no frame. Each wraps a source into a source."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from edge_sft.prediction import Sample
from edge_sft.runtime.sources.protocol import Source, SourceEnded, SourceStatus

_PART_ID_MAX = 256
_RECENT_IDS = 1024


@dataclass(frozen=True)
class Trigger:
    """One request for a decision; ``fault`` when the message could not be understood."""

    part_id: str | None
    received_at: datetime
    received_monotonic_s: float
    trigger_id: str | None = None
    fault: str | None = None


def parse(payload: bytes, *, now: datetime, monotonic_s: float) -> Trigger:
    """Read a trigger message, ``{"part_id": "A17"}`` with an optional ``trigger_id``; other keys are ignored."""
    try:
        message = json.loads(payload)
        part, identity = message["part_id"], message.get("trigger_id")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Trigger(None, now, monotonic_s, fault='trigger is not understood; send {"part_id": "…"}')
    if isinstance(part, bool) or not isinstance(part, (str, int)) or not 0 < len(str(part)) <= _PART_ID_MAX:
        fault = f"trigger's part_id is not a text of 1 to {_PART_ID_MAX} characters"
        return Trigger(None, now, monotonic_s, fault=fault)
    return Trigger(str(part), now, monotonic_s, None if identity is None else str(identity)[:_PART_ID_MAX])


class TriggerInbox:
    """Triggers that wait for their frame. Bounded; what does not fit is refused at once, with a decision."""

    def __init__(self, waiting_max: int, refuse: Callable[[Trigger, str], None]) -> None:
        self._waiting_max = waiting_max
        self._refuse = refuse
        self._changed = threading.Condition()
        self._waiting: deque[Trigger] = deque()
        self._recent: dict[str, None] = {}

    def offer(self, payload: bytes) -> None:
        """Take a message as it came from the broker. Called from its network thread; never blocks, never raises."""
        trigger = parse(payload, now=datetime.now(timezone.utc), monotonic_s=time.monotonic())
        with self._changed:
            if trigger.trigger_id is not None and not self._is_new(trigger.trigger_id):
                return  # QoS 1 delivers at least once: the same trigger again
            full = len(self._waiting) >= self._waiting_max
            if not full:
                self._waiting.append(trigger)
                self._changed.notify_all()
        if full:
            self._refuse(trigger, f"more than {self._waiting_max} triggers are waiting")

    def _is_new(self, identity: str) -> bool:
        if identity in self._recent:
            return False
        self._recent[identity] = None
        if len(self._recent) > _RECENT_IDS:
            del self._recent[next(iter(self._recent))]
        return True

    def next(self, timeout_s: float) -> Trigger | None:
        """Return the oldest trigger, or None when none came within the time."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting), timeout_s)
            return self._waiting.popleft() if self._waiting else None

    def __len__(self) -> int:
        with self._changed:
            return len(self._waiting)


class TriggeredSource:
    """One Sample per trigger, with its part id.

    From a live source (camera) it is a frame captured after the trigger came; from files or an iterator the next
    one. Without a frame in time the Sample carries a fault. Latency and deadline count from the trigger.
    """

    def __init__(self, source: Source, inbox: TriggerInbox, timeout_s: float, stream: str) -> None:
        self.live = source.live
        self._stream = stream
        self._source = source
        self._inbox = inbox
        self._timeout_s = timeout_s
        self._closed = threading.Event()

    def read(self, timeout_s: float) -> Sample | None:
        """Return the Sample of the next trigger; waits for the frame up to the trigger's own timeout."""
        if self.live:
            self._source.read(0.0)  # keeps the camera connected and its frames fresh while nobody asks
        trigger = self._inbox.next(timeout_s)
        if trigger is None:
            return None
        if trigger.fault is not None:
            return faulty(trigger, trigger.fault, self._stream)
        frame, why = self._frame(trigger)
        if frame is None:
            return faulty(trigger, why, self._stream)
        return replace(frame, part_id=trigger.part_id, captured_monotonic_s=trigger.received_monotonic_s)

    def _frame(self, trigger: Trigger) -> tuple[Sample | None, str]:
        until = trigger.received_monotonic_s + self._timeout_s
        first = True
        while first or (time.monotonic() < until and not self._closed.is_set()):
            left = min(max(until - time.monotonic(), 0.0), 0.2)
            first = False
            try:
                frame = self._source.read(left)
            except SourceEnded:
                return None, "source has ended"
            if frame is not None and (not self.live or frame.captured_monotonic_s >= trigger.received_monotonic_s):
                return frame, ""
        status = self._source.status
        if not status.connected:
            return None, "camera not available" if self.live else f"source not available ({status.detail})"
        return None, f"no fresh frame within {self._timeout_s * 1000:.0f} ms"

    def settle(self, samples: Iterable[Sample]) -> None:
        """Pass on."""
        self._source.settle(samples)

    @property
    def status(self) -> SourceStatus:
        """The wrapped source's."""
        return self._source.status

    def close(self) -> None:
        """Close the wrapped source."""
        self._closed.set()
        self._source.close()


class NamedSource:
    """Each file is a trigger, its name holds the part id. A name that does not match still gets a (no-)decision."""

    def __init__(self, source: Source, pattern: str) -> None:
        self.live = source.live
        self._source = source
        self._pattern = re.compile(pattern)

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next Sample with its part id."""
        sample = self._source.read(timeout_s)
        if sample is None:
            return None
        match = self._pattern.search(sample.name or "")
        if match is None or not match.group("part_id"):
            return replace(sample, data=None, fault=sample.fault or "file name holds no part id (trigger pattern)")
        return replace(sample, part_id=match.group("part_id")[:_PART_ID_MAX])

    def settle(self, samples: Iterable[Sample]) -> None:
        """Pass on."""
        self._source.settle(samples)

    @property
    def status(self) -> SourceStatus:
        """The wrapped source's."""
        return self._source.status

    def close(self) -> None:
        """Close the wrapped source."""
        self._source.close()


def faulty(trigger: Trigger, fault: str, stream: str) -> Sample:
    """Return the Sample of a trigger that got no frame."""
    return Sample(None, trigger.received_at, trigger.received_monotonic_s, stream, part_id=trigger.part_id, fault=fault)

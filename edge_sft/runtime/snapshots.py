"""Pictures of what was found, on MQTT: best effort, beside the decisions and never in their way.

A decision that asks for one is drawn over in a thread of its own once the journal has numbered it, so that a snapshot
names its decision. It goes over a connection of its own, one at a time: on a slow link pictures wait for pictures.
Nothing is kept: while the broker is away, or when they come too fast, they are left out and counted.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_sft.prediction import Prediction, Sample
from edge_sft.runtime.config import SnapshotSection
from edge_sft.runtime.meter import Meter
from edge_sft.runtime.publisher import Link

if TYPE_CHECKING:
    from edge_sft.runtime.crew import Crew

log = logging.getLogger(__name__)
Place = tuple[str, str, int]  # stream, epoch, seq

_WAITING = 4  # pictures kept at a time, each as large as a frame
_TURN_S = 0.2
_SLOW_S = 30.0  # a snapshot that was not sent by then counts as lost
_TELL_S = 60.0
_LARGEST = 1280  # longest side, pixels: a line's dashboard shows no more
_HEAD_BYTES = 1024  # of a message, besides the picture and what people named


@dataclass(frozen=True)
class Wanted:
    """A decision whose picture is wanted, with what it is drawn from."""

    prediction: Prediction
    sample: Sample
    crew: Crew
    heat: Any


class Snapshots:
    """The snapshots of one pipeline.

    Args:
        section: Which and how many.
        link: A connection of their own.
        topic: Where they go.
        meter: Counts ``snapshots`` and ``snapshots_left_out``.
        tell: Told (kind, sentence) why they are left out, once a minute at most.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        section: SnapshotSection,
        link: Link,
        topic: str,
        *,
        meter: Meter,
        tell: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._section, self._link, self._topic = section, link, topic
        self._meter, self._tell, self._clock = meter, tell, clock
        self._lock = threading.Lock()
        # by the prediction's identity, until the journal has numbered it: since when, and what
        self._waiting: dict[int, tuple[float, Wanted]] = {}
        self._ready: deque[tuple[Wanted, Place]] = deque()
        self._wake = threading.Event()
        self._sent_s: deque[float] = deque(maxlen=section.max_per_minute)
        self._under_way: tuple[int, float] | None = None  # session, since when
        self._told_s = -_TELL_S

    def offer(self, wanted: Wanted) -> None:
        """Take note of a decision before the journal gets it; returns at once."""
        if wanted.prediction.verdict not in self._section.when:
            return
        now = self._clock()
        if not self._link.connected:
            self._leave_out("the broker is away")
        elif len(self._sent_s) == self._sent_s.maxlen and now - self._sent_s[0] < 60:
            self._leave_out(f"there were {self._section.max_per_minute} within a minute (max_per_minute)")
        else:
            with self._lock:
                self._forget(now)
                full = len(self._waiting) + len(self._ready) >= _WAITING
                if not full:
                    self._sent_s.append(now)
                    self._waiting[id(wanted.prediction)] = now, wanted
            if full:
                self._leave_out("they come faster than they can be drawn and sent")

    def numbered(self, stored: Sequence[tuple[Prediction, Place]]) -> None:
        """Learn where predictions stand in the journal; called on its writer's thread."""
        with self._lock:
            for prediction, place in stored:
                known = self._waiting.pop(id(prediction), None)
                if known is not None:
                    self._ready.append((known[1], place))
        if self._ready:
            self._wake.set()

    def _forget(self, now: float) -> None:
        """Let go of decisions that the journal never numbered: it had to drop them."""
        for key in [key for key, (since_s, _) in self._waiting.items() if now - since_s > _SLOW_S]:
            del self._waiting[key]

    def run(self, stop: threading.Event) -> None:
        """Draw and send until stopped."""
        while not stop.is_set():
            self._wake.wait(_TURN_S)
            self._wake.clear()
            while not stop.is_set() and self._step():
                pass

    def _step(self) -> bool:
        """Send the oldest; False when there is none, or the one before is not through."""
        if self._is_busy():
            return False
        with self._lock:
            if not self._ready:
                return False
            wanted, place = self._ready.popleft()
        try:
            payload = self._payload(wanted, place)
        except Exception as error:  # a picture is no reason to lose the thread
            log.exception("snapshot of %s", wanted.prediction.name)
            self._leave_out(f"drawing failed ({type(error).__name__}: {error})")
            return True
        if payload is None:
            limit = self._section.max_bytes
            self._leave_out(f"one does not fit into {limit:,} bytes however small (max_bytes)")
            return True
        self._under_way = self._link.session, self._clock()
        if self._link.publish(self._topic, payload, 0, False, done=self._through):
            self._meter.count("snapshots")
        else:
            self._under_way = None
            self._leave_out("the broker is away")
        return True

    def _is_busy(self) -> bool:
        """Tell whether the last one is still being written to this connection."""
        if self._under_way is None:
            return False
        session, since_s = self._under_way
        if session != self._link.session or self._clock() - since_s > _SLOW_S:
            self._under_way = None
        return self._under_way is not None

    def _through(self, _accepted: bool) -> None:
        self._under_way = None
        self._wake.set()

    def _payload(self, wanted: Wanted, place: Place) -> bytes | None:
        from edge_sft.slots import overlay

        explained = wanted.crew.shown(wanted.sample, wanted.prediction, wanted.heat)
        if explained is None:
            return None
        picture = overlay.draw(explained, mm_per_pixel=wanted.crew.mm_per_pixel, largest=_LARGEST)
        named = len((wanted.prediction.part_id or "").encode()) + len((wanted.prediction.name or "").encode())
        room = (self._section.max_bytes - _HEAD_BYTES - 6 * named) * 3 // 4  # base64 makes four of three
        content = overlay.jpeg_within(picture, room)
        return None if content is None else message(wanted.prediction, place, content)

    def _leave_out(self, why: str) -> None:
        self._meter.count("snapshots_left_out")
        now = self._clock()
        if now - self._told_s >= _TELL_S:
            self._told_s = now
            self._tell("snapshot_left_out", f"a snapshot was left out: {why}")


def message(prediction: Prediction, place: Place, jpeg: bytes) -> bytes:
    """Return what is published: the picture in base64, and which decision it belongs to."""
    stream, epoch, seq = place
    body = {
        "schema_version": 1,
        "stream": stream,
        "epoch": epoch,
        "seq": seq,
        "part_id": prediction.part_id,
        "name": prediction.name,
        "captured_at": prediction.captured_at,
        "verdict": prediction.verdict,
        "label": prediction.label,
        "score": prediction.score,
        "media_type": "image/jpeg",
        "image": base64.b64encode(jpeg).decode("ascii"),
    }
    known = {name: value for name, value in body.items() if value is not None}
    return json.dumps(known, ensure_ascii=False, separators=(",", ":")).encode()

"""Sensor rows from MQTT, on a connection of their own.

With ``qos`` 1 the broker keeps a session: what came while the agent was away is delivered then, and a message stays
the broker's until its rows are in the raw ring (`settle`). A message delivered twice counts once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from datetime import datetime, timezone

from edge_sft.errors import DataError
from edge_sft.prediction import Rows, Sample
from edge_sft.runtime.config import RowsFromMqtt
from edge_sft.runtime.delivery import Delivery, accept_all
from edge_sft.runtime.mqtt import MqttLink, MqttSettings
from edge_sft.runtime.sources.protocol import SourceStatus
from edge_sft.runtime.sources.row_messages import RowReader

log = logging.getLogger(__name__)
# A broker delivers again at most what was not acknowledged when the connection broke.
_REMEMBERED = 20_000


class RowsMqtt:
    """Source over topics. `read` gives one Sample per asset and message.

    Args:
        config: Its section.
        settings: The broker.
        client_id: Unique, and the same after a restart: the broker knows the session by it.
        stream: Name that Samples carry.
    """

    live = True

    def __init__(self, config: RowsFromMqtt, settings: MqttSettings, client_id: str, stream: str) -> None:
        self._config = config
        self._stream = stream
        self._reader = RowReader(config)
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Delivery, datetime, float]] = deque()
        self._ready: deque[tuple[Sample, Callable[[], None] | None]] = deque()
        self._given: deque[Callable[[], None] | None] = deque()
        self._recent: OrderedDict[int, None] = OrderedDict()  # a plain dict is slow to give its oldest key
        self._closed = False
        self.dropped = 0
        self.link = MqttLink(settings, client_id=client_id, persistent=config.qos == 1, deliver=self._take)
        for topic in config.topics:
            self.link.subscribe_delivery(topic, config.qos)
        self.link.start()

    def _take(self, delivery: Delivery) -> None:
        """Keep a message; on the link's thread, so it neither parses nor blocks."""
        came = (delivery, datetime.now(timezone.utc), time.monotonic())
        with self._changed:
            if self._config.qos == 0 and len(self._waiting) >= self._config.waiting_max:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(came)
            if len(self._waiting) == 1:
                self._changed.notify_all()

    def read(self, timeout_s: float) -> Sample | None:
        """Return the rows of the oldest message."""
        while not self._ready:
            came = self._oldest(timeout_s)
            if came is None:
                return None
            self._parse(*came)
        sample, accept = self._ready.popleft()
        self._given.append(accept)
        return sample

    def _oldest(self, timeout_s: float) -> tuple[Delivery, datetime, float] | None:
        with self._changed:
            if not self._waiting and timeout_s > 0:
                self._changed.wait_for(lambda: bool(self._waiting) or self._closed, timeout_s)
            return self._waiting.popleft() if self._waiting else None

    def _parse(self, delivery: Delivery, at: datetime, monotonic_s: float) -> None:
        if self._config.qos == 1 and self._is_known(delivery):
            delivery.accept()
            return
        rows: list[Rows] = []
        fault: str | None = None
        try:
            rows = self._reader.read(delivery.topic, delivery.payload, at.timestamp())
        except DataError as error:
            fault = str(error)
        except Exception as error:  # no message may stop those behind it
            log.exception("a message on %r could not be read", delivery.topic)
            fault = f"message on {delivery.topic!r}: could not be read ({type(error).__name__})"
        made = [Sample(one, at, monotonic_s, self._stream) for one in rows]
        if not made:
            fault = fault or f"message on {delivery.topic}: holds no rows"
            made = [Sample(None, at, monotonic_s, self._stream, name=delivery.topic, fault=fault)]
        self._ready.extend((sample, None) for sample in made[:-1])
        self._ready.append((made[-1], delivery.accept if self._config.qos == 1 else None))

    def _is_known(self, delivery: Delivery) -> bool:
        """Tell whether this is a message delivered again that was taken before."""
        mark = hash((delivery.topic, delivery.payload))
        if delivery.again and mark in self._recent:
            return True
        self._recent[mark] = None
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)
        return False

    def settle(self, samples: Iterable[Sample]) -> None:
        """Acknowledge the messages of these samples; they come in the order of `read`."""
        given = [self._given.popleft() for _ in samples]
        accept_all([accept for accept in given if accept is not None])

    @property
    def status(self) -> SourceStatus:
        """Whether the broker is there and lets the topics be read."""
        if (refused := self.link.subscription_error) is not None:
            return SourceStatus(False, str(refused))
        if self.link.connected:
            return SourceStatus(True, f"{self.dropped} messages were dropped" if self.dropped else "")
        trouble = self.link.last_error
        return SourceStatus(False, str(trouble) if trouble else "not connected to the broker yet")

    def close(self) -> None:
        """Stop a read that waits, and say goodbye to the broker, which keeps the session."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def release(self) -> None:
        """Leave the broker; after the last `settle`."""
        self.link.stop()


def open_source(config: RowsFromMqtt, *, settings: MqttSettings, client_id: str, stream: str) -> RowsMqtt:
    """Connect in the background; a broker that is not there is waited for."""
    return RowsMqtt(config, settings, client_id, stream)

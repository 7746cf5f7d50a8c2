"""The agent's voice on MQTT beside its decisions: states at once when they change, metrics, events.

It never blocks a pipeline: events wait in a bounded queue (and are in the log), metrics are made when due.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Protocol

from edge_sft.runtime.topics import Topics
from edge_sft.runtime.views import JournalView, PipelineView, Spoken, describe, event_payload, metrics_payload

log = logging.getLogger(__name__)
# Events wait so many while the broker is away; the oldest go first (they are in the log as well).
_EVENTS_MAX = 2000
_GOOD_NEWS = frozenset({"deployed", "swapped", "source_back", "case_closed", "asset_online", "resumed", "rows_moving"})


class Sender(Protocol):
    """What is used of `edge_sft.runtime.mqtt.MqttLink`."""

    @property
    def connected(self) -> bool:
        """Whether messages can be sent."""
        ...

    def publish(self, topic: str, payload: bytes | str, qos: int = 1, retain: bool = False) -> bool:
        """Send now; False when that cannot be."""
        ...


class Voice:
    """Takes events from any thread; `tick` publishes what is due.

    Args:
        link: The connection.
        topics: The device's topics.
        journal: Looks at the journal.
        publish_states: Publishes all retained states now (the heartbeat does so by itself).
        metrics_s: How often metrics are published.
        memory_mb: Tells the process's resident memory.
    """

    def __init__(
        self,
        link: Sender,
        topics: Topics,
        *,
        journal: Callable[[], JournalView],
        publish_states: Callable[[], bool],
        metrics_s: float,
        memory_mb: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._link, self._topics, self._journal = link, topics, journal
        self._publish_states, self._metrics_s, self._memory_mb = publish_states, metrics_s, memory_mb
        self._events: deque[tuple[str | None, bytes]] = deque(maxlen=_EVENTS_MAX)
        self._lock = threading.Lock()
        self._told: list[object] = []
        self._dropped: dict[str, int] = {}
        self._metrics_at_s = time.monotonic() + metrics_s

    def event(self, pipeline: str | None, kind: str, detail: str, facts: Mapping[str, Any] | None = None) -> None:
        """Take an event; ``pipeline`` None is the whole device."""
        payload = event_payload(kind, detail, now=datetime.now(timezone.utc), facts=facts)
        with self._lock:
            self._events.append((pipeline, payload))

    def teller(self, pipeline: str) -> Callable[[str, str], None]:
        """Return what a pipeline tells its events to: the log, and MQTT."""

        def tell(kind: str, detail: str) -> None:
            log.log(logging.INFO if kind in _GOOD_NEWS else logging.WARNING, "%s: %s", pipeline, detail)
            self.event(pipeline, kind, detail)

        return tell

    def announcer(self, pipeline: str) -> Callable[[str, str, Mapping[str, Any]], None]:
        """Return what a pipeline tells its cases to: like a teller's, with facts for programs."""

        def announce(kind: str, detail: str, facts: Mapping[str, Any]) -> None:
            log.log(logging.INFO if kind in _GOOD_NEWS else logging.WARNING, "%s: %s", pipeline, detail)
            self.event(pipeline, kind, detail, facts)

        return announce

    def states(self, pipelines: Sequence[Spoken]) -> dict[str, dict[str, Any]]:
        """Return what each pipeline's retained state says."""
        journal = self._journal()
        return {pipeline.section.name: describe(pipeline.view(), journal) for pipeline in pipelines}

    def tick(self, pipelines: Sequence[Spoken]) -> None:
        """Publish states that changed, metrics that are due, and waiting events."""
        views = [pipeline.view() for pipeline in pipelines]
        # Details that count seconds change at every look; these do not.
        facts: list[object] = [
            (v.status, v.model, v.policy_version, v.source.connected, v.assets and v.assets.facts) for v in views
        ]
        if facts != self._told and self._link.connected and self._publish_states():
            self._told = facts
        if time.monotonic() >= self._metrics_at_s:
            self._metrics_at_s = time.monotonic() + self._metrics_s
            self._metrics(pipelines, views)
        self.send_events()

    def _metrics(self, pipelines: Sequence[Spoken], views: list[PipelineView]) -> None:
        journal, memory_mb, now = self._journal(), self._memory_mb(), datetime.now(timezone.utc)
        for pipeline, view in zip(pipelines, views, strict=True):
            rate, p50, p99 = pipeline.meter.read()
            payload = metrics_payload(view, rate, (p50, p99), now=now, journal=journal, memory_mb=memory_mb)
            self._link.publish(self._topics.metrics(view.name), payload, 0, False)
            self._tell_drops(view)

    def _tell_drops(self, view: PipelineView) -> None:
        """Once per metrics period, not once per frame."""
        dropped = view.counts.get("dropped", 0)
        new = dropped - self._dropped.get(view.name, 0)
        self._dropped[view.name] = dropped
        if new > 0:
            detail = f"{new} samples were dropped: they came faster than decisions (queue of {view.queue_size})"
            self.teller(view.name)("dropped", detail)

    def send_events(self) -> None:
        """Publish waiting events while the broker takes them."""
        while self._link.connected:
            with self._lock:
                if not self._events:
                    return
                pipeline, payload = self._events[0]
            topic = self._topics.of_device("event") if pipeline is None else self._topics.event(pipeline)
            if not self._link.publish(topic, payload, 1, False):
                return
            with self._lock:
                if self._events and self._events[0][1] is payload:
                    self._events.popleft()

"""The retained ``state`` of a device and its pipelines, so that a PLC can fail safe.

``<device>/state`` carries the last will: the broker itself turns it to ``online: false`` when the device is lost.
``<pipeline>/state`` says how old that pipeline's last decision is. Both are published at every connection and every
``every_s`` seconds (the heartbeat); a reader that has seen none for three heartbeats must count it as offline.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from edge_sft.prediction import rfc3339
from edge_sft.runtime.mqtt import MqttLink, Will
from edge_sft.runtime.topics import Topics

log = logging.getLogger(__name__)
SCHEMA_VERSION = 1
Describe = Callable[[], Mapping[str, Mapping[str, Any]]]


def last_will(topics: Topics) -> Will:
    """Return the will of a device's connection; give it to `MqttLink`."""
    body = {"schema_version": SCHEMA_VERSION, "online": False, "reason": "connection lost"}
    return Will(topics.device_state, json.dumps(body).encode(), retain=True)


class StateBeat:
    """Publishes the retained states, on a thread of its own. `start`, `stop`, or a context manager.

    Args:
        link: A connection made with `last_will`.
        topics: The device's topics.
        describe: Returns, per pipeline name, what its state says: ``last_decision_age_s`` (None before the first),
            ``model`` (name, version, digest), ``verdicts`` and whatever else helps. Called on this thread.
        versions: Of the software, e.g. ``{"edge-sft": "0.1.0", "onnxruntime": "1.23.0"}``.
        every_s: The heartbeat.
    """

    def __init__(
        self,
        link: MqttLink,
        topics: Topics,
        describe: Describe,
        *,
        versions: Mapping[str, str] | None = None,
        every_s: float = 5.0,
    ) -> None:
        self._link, self._topics, self._describe = link, topics, describe
        self._versions, self._every_s = dict(versions or {}), every_s
        self._since = rfc3339(datetime.now(timezone.utc))
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        link.on_connected(self._wake.set)

    def start(self) -> StateBeat:
        """Begin publishing."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="state", daemon=True)
        self._thread.start()
        return self

    def stop(self, timeout_s: float = 5.0) -> None:
        """Publish ``online: false`` (stopped on purpose) and end; call it before the link is stopped."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        self.publish(online=False)

    def __enter__(self) -> StateBeat:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def publish(self, *, online: bool = True) -> bool:
        """Publish all states once, now. False without a connection."""
        described = {name: dict(state) for name, state in self._describe().items()}
        now = rfc3339(datetime.now(timezone.utc))
        common = {"schema_version": SCHEMA_VERSION, "online": online, "since": self._since, "heartbeat_at": now}
        common["heartbeat_s"] = self._every_s
        if not online:
            common["reason"] = "stopped"
        sent = all(
            self._link.publish(self._topics.state(name), _encoded({**common, **state}), 1, True)
            for name, state in described.items()
        )
        device = {**common, "versions": self._versions, "pipelines": described}
        return self._link.publish(self._topics.device_state, _encoded(device), 1, True) and sent

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.publish()
            except Exception:  # a failing description must not end the heartbeat of the others for ever
                log.exception("state: could not be published")
            self._wake.wait(self._every_s)
            self._wake.clear()


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), default=str).encode()

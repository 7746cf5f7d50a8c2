"""What a monitor shows, computed from messages alone: rates, counts, last decisions, who is online."""

from __future__ import annotations

import json
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from edge_sft.prediction import Envelope, Prediction
from edge_sft.runtime import topics
from edge_sft.runtime.ranges import total

RATE_WINDOW_S = 10.0
MISSED_HEARTBEATS = 3.0


@dataclass
class PipelineView:
    """One pipeline of one device.

    Attributes:
        counts: Decisions by verdict since the monitor began.
        backfilled: How many of them came late.
        dropped: How many the device named as lost.
        arrivals: When live decisions came, monotonic seconds, newest last.
        last: The newest decisions, newest first.
        state: The pipeline's last retained state.
        state_at: When it came, monotonic seconds.
    """

    counts: Counter[str] = field(default_factory=Counter)
    backfilled: int = 0
    dropped: int = 0
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=20_000))
    last: deque[Prediction] = field(default_factory=lambda: deque(maxlen=3))
    state: dict[str, Any] = field(default_factory=dict)
    state_at: float | None = None

    def per_s(self, now_s: float) -> float:
        """Live decisions a second over the last ten."""
        while self.arrivals and now_s - self.arrivals[0] > RATE_WINDOW_S:
            self.arrivals.popleft()
        return len(self.arrivals) / RATE_WINDOW_S

    def age_s(self, now_s: float) -> float | None:
        """Seconds since the last live decision came; None before the first."""
        return now_s - self.arrivals[-1] if self.arrivals else None


class Board:
    """Feeds on (topic, payload); anything that is not ours is ignored and counted."""

    def __init__(self, prefix: str = topics.DEFAULT_PREFIX) -> None:
        self.prefix = prefix
        self.pipelines: dict[tuple[str, str], PipelineView] = {}  # (device's topic root, pipeline)
        self.devices: dict[str, dict[str, Any]] = {}
        self._heard: dict[str, float] = {}
        self.ignored = 0

    def take(self, topic: str, payload: bytes, now_s: float) -> None:
        """Take in a message; ``now_s`` is monotonic."""
        place = topics.parse(topic, self.prefix)
        try:
            if place is None:
                self.ignored += 1
            elif place.kind == "prediction" and place.pipeline is not None:
                self._decision(self._view(place.root, place.pipeline), Envelope.from_json(payload), now_s)
            elif place.kind == "state":
                self._state(place.root, place.pipeline, json.loads(payload), now_s)
        except (ValidationError, ValueError):
            self.ignored += 1

    def online(self, device: str, now_s: float) -> bool:
        """Whether a device says so and its heartbeat is not overdue."""
        state = self.devices.get(device, {})
        if not state.get("online"):
            return False
        beat_s = state.get("heartbeat_s")
        return not isinstance(beat_s, (int, float)) or now_s - self._heard[device] <= MISSED_HEARTBEATS * beat_s

    def _view(self, device: str, pipeline: str) -> PipelineView:
        return self.pipelines.setdefault((device, pipeline), PipelineView())

    def _decision(self, view: PipelineView, envelope: Envelope, now_s: float) -> None:
        if envelope.dropped is not None:
            view.dropped += total([(envelope.dropped.first_seq, envelope.dropped.last_seq)])
        if envelope.prediction is None:
            return
        view.counts[envelope.prediction.verdict] += 1
        if envelope.backfill:
            view.backfilled += 1
            return
        view.arrivals.append(now_s)
        view.last.appendleft(envelope.prediction)

    def _state(self, device: str, pipeline: str | None, body: object, now_s: float) -> None:
        if not isinstance(body, dict):
            self.ignored += 1
        elif pipeline is None:
            self.devices[device] = body
            self._heard[device] = now_s
        else:
            view = self._view(device, pipeline)
            view.state, view.state_at = body, now_s

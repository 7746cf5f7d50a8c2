"""What the agent says about its pipelines on the state, metrics and event topics. Pure functions over plain values.

A PLC needs three facts from the retained state to fail safe: ``online``, the heartbeat (a state older than three
heartbeats means nobody is home), and ``last_decision_age_s``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from edge_sft.prediction import ModelIdentity, rfc3339
from edge_sft.runtime.assets import AssetsView
from edge_sft.runtime.config import PipelineSection
from edge_sft.runtime.crew import Crew
from edge_sft.runtime.meter import Meter
from edge_sft.runtime.sources.protocol import SourceStatus

Status = Literal["running", "not_deployed", "source_lost", "stuck", "finished", "stopping"]
VERDICTS = ("ok", "nok", "uncertain", "no_decision")


@dataclass(frozen=True)
class PipelineView:
    """A look at one pipeline at one instant."""

    name: str
    status: Status
    detail: str
    model: ModelIdentity | None
    policy_version: str | None
    generation: int
    source: SourceStatus
    last_decision_age_s: float | None
    queue_depth: int
    queue_size: int
    queue_policy: str
    triggers_waiting: int | None
    counts: dict[str, int]
    assets: AssetsView | None = None
    rows_behind_s: float | None = None


@dataclass(frozen=True)
class Queueing:
    """What waits in a pipeline, how much may, and what happens beyond."""

    depth: int
    size: int
    policy: str


class Spoken(Protocol):
    """What is told about a pipeline, of pictures or of rows."""

    section: PipelineSection
    meter: Meter

    def view(self) -> PipelineView:
        """Look at it."""
        ...


@dataclass(frozen=True)
class JournalView:
    """A look at the journal."""

    waiting: int
    size_bytes: int
    on_disk: bool


def view_of(
    section: PipelineSection,
    meter: Meter,
    crew: Crew | None,
    source: SourceStatus,
    queue: Queueing,
    *,
    stopping: bool,
    finished: bool,
    stuck: str,
    swap_trouble: str,
    notice: str = "",
    triggers_waiting: int | None = None,
    assets: AssetsView | None = None,
    rows_behind_s: float | None = None,
) -> PipelineView:
    """Put together what is seen of a pipeline.

    Args:
        section: Its part of agent.toml.
        meter: Its counts.
        crew: Its model, if one is deployed.
        source: How its source is.
        queue: What waits in it.
        stopping: It was told to stop.
        finished: Its source has ended and everything is decided.
        stuck: What hangs, in words.
        swap_trouble: Why the newest deploy is not used, in words.
        notice: What else a person should know of a pipeline that runs.
        triggers_waiting: How many triggers wait, where it has them.
        assets: Its assets, where it has them.
        rows_behind_s: How old rows are when they come, where that is known.
    """
    status, detail = _status_of(stopping, finished, crew is not None, source, stuck, swap_trouble)
    if status == "running" and not swap_trouble and notice:
        detail = notice
    last_s = meter.last_decision_s
    return PipelineView(
        name=section.name,
        status=status,
        detail=detail,
        model=crew.model if crew else None,
        policy_version=crew.policy_version if crew else None,
        generation=crew.generation if crew else 0,
        source=source,
        last_decision_age_s=None if last_s is None else time.monotonic() - last_s,
        queue_depth=queue.depth,
        queue_size=queue.size,
        queue_policy=queue.policy,
        triggers_waiting=triggers_waiting,
        counts=meter.counts,
        assets=assets,
        rows_behind_s=rows_behind_s,
    )


def _status_of(
    stopping: bool, finished: bool, deployed: bool, source: SourceStatus, stuck: str, swap_trouble: str
) -> tuple[Status, str]:
    """Decide the one word for a pipeline, worst first, and the sentence beside it."""
    if stopping:
        return "stopping", "the agent is stopping"
    if finished:
        return "finished", "the source has ended and every decision is made"
    if stuck:
        return "stuck", stuck
    if not deployed:
        return "not_deployed", swap_trouble or "no model is deployed; run: edge-sft deploy BUNDLE --to local"
    if not source.connected:
        return "source_lost", source.detail
    return "running", f"the newest deploy is not used: {swap_trouble}" if swap_trouble else source.detail


def describe(view: PipelineView, journal: JournalView) -> dict[str, Any]:
    """Return what a pipeline's retained state says besides being online."""
    body: dict[str, Any] = {
        "status": view.status,
        "detail": view.detail,
        "last_decision_age_s": None if view.last_decision_age_s is None else round(view.last_decision_age_s, 3),
        "model": view.model.model_dump() if view.model else None,
        "policy_version": view.policy_version,
        "generation": view.generation,
        "verdicts": {verdict: view.counts.get(verdict, 0) for verdict in VERDICTS},
        "source": {"connected": view.source.connected, "detail": view.source.detail},
        "journal": {"waiting": journal.waiting, "on_disk": journal.on_disk},
    }
    if view.assets is not None:
        body["assets"] = asdict(view.assets)
        body["rows_behind_s"] = _rounded(view.rows_behind_s)
    return body


def metrics_payload(
    view: PipelineView,
    rate: float,
    latency_ms: tuple[float | None, float | None],
    *,
    now: datetime,
    journal: JournalView,
    memory_mb: float | None,
) -> bytes:
    """Return one pipeline's measurements.

    Args:
        view: A look at it.
        rate: Decisions per second since the last metrics.
        latency_ms: Median and 99th percentile of the newest decisions, capture to decision.
        now: UTC.
        journal: A look at the journal.
        memory_mb: Resident memory of the whole agent, MiB.
    """
    return _json(
        {
            "schema_version": 1,
            "at": rfc3339(now),
            "decisions_per_s": round(rate, 2),
            "latency_ms": {"p50": _rounded(latency_ms[0]), "p99": _rounded(latency_ms[1])},
            "counts": view.counts,
            "dropped": view.counts.get("dropped", 0),
            "queue": {"depth": view.queue_depth, "size": view.queue_size, "policy": view.queue_policy},
            "triggers_waiting": view.triggers_waiting,
            "journal": {"waiting": journal.waiting, "size_bytes": journal.size_bytes, "on_disk": journal.on_disk},
            "memory_mb": _rounded(memory_mb),
        }
    )


def event_payload(kind: str, detail: str, *, now: datetime, facts: Mapping[str, Any] | None = None) -> bytes:
    """Return one event: something happened that a person may want to know; ``facts`` are for programs."""
    body = {"schema_version": 1, "at": rfc3339(now), "kind": kind, "detail": detail}
    return _json({**body, "facts": dict(facts)} if facts else body)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

"""Sample in, Prediction out, Envelope on the wire: the message types and their versioned JSON.

Owns the published JSON Schema. Knows neither models, nor journals, nor MQTT.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Verdict = Literal["ok", "nok", "uncertain", "no_decision"]


@dataclass(frozen=True)
class Encoded:
    """A picture as its file holds it; decoded when the model's input size is known, at no more than it needs."""

    content: bytes


@dataclass(frozen=True)
class Rows:
    """Raw sensor rows of one asset, as they came.

    Attributes:
        asset: Whose they are (machine, bearing, pump).
        time_s: When they were measured, float64 [n], in the source's clock; need not be regular.
        values: float64 [n, C], NaN where a channel said nothing.
        channels: Names of the C columns.
    """

    asset: str
    time_s: NDArray[np.float64]
    values: NDArray[np.float64]
    channels: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """One raw frame or row batch, before any preprocessing.

    Attributes:
        data: Frame as read: uint8 or uint16, [H, W] grey or [H, W, 3] **RGB**; or `Encoded`, or `Rows`. None when it
            could not be read; ``fault`` then says why and the decision will be ``no_decision``.
        captured_at: UTC wall-clock time of capture.
        captured_monotonic_s: ``time.monotonic()`` at capture; deadlines are measured against it.
        stream: Name of the stream (camera) it belongs to.
        part_id: Identity of the part, when the line gives one.
        name: File name or frame counter, for people.
        fault: Why there is no usable data, or None.
    """

    data: NDArray[np.uint8] | NDArray[np.uint16] | Encoded | Rows | None
    captured_at: datetime
    captured_monotonic_s: float
    stream: str
    part_id: str | None = None
    name: str | None = None
    fault: str | None = None


class Mark(BaseModel):
    """Where something is: a region of an anomaly map, a detected object, a segmented part.

    All lengths are in pixels of the frame as the camera gave it, from its upper left corner; areas and lengths in
    millimetres are there where the recipe has a scale.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str | None = Field(default=None, description="what it is; absent for an anomaly")
    score: float = Field(ge=0, description="probability; of an anomaly the peak against the threshold")
    left: float
    top: float
    right: float
    bottom: float
    area_px: float | None = Field(default=None, ge=0, description="pixels that belong to it")
    area_mm2: float | None = Field(default=None, ge=0)
    length_mm: float | None = Field(default=None, ge=0, description="longest extent")


MOST_MARKS = 100  # in one message, the highest scores


@dataclass(frozen=True)
class Decision:
    """What the policy made of a model's outputs.

    Attributes:
        verdict: ``ok``, ``nok``, ``uncertain`` or ``no_decision``.
        label: Most probable label, None for ``no_decision``.
        score: Evidence for a defect: in [0, 1] (sum of the defect labels' probabilities) for classification, the
            anomaly score against its threshold (1 = at the threshold) for anomaly detection.
        confidence: Probability of ``label``.
        reason: Why ``uncertain`` or ``no_decision``; None otherwise.
        value: Regression's estimate, in the task's unit.
        low: Lower end of its interval.
        high: Upper end of its interval.
        channels: For an anomaly, the channels it comes from with their shares, largest first.
        marks: Where it is, highest score first; None where the kind of model does not tell.
    """

    verdict: Verdict
    label: str | None = None
    score: float | None = None
    confidence: float | None = None
    reason: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    channels: dict[str, float] | None = None
    marks: tuple[Mark, ...] | None = None


class ModelIdentity(BaseModel):
    """Which model spoke: bundle name and version, manifest digest, variant that ran."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str
    version: str
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the bundle's manifest")
    variant: str


class Prediction(BaseModel):
    """One decision about one sample; the unit that is journalled, published and counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    stream: str
    part_id: str | None = None
    asset: str | None = Field(default=None, description="machine that a sensor decision is about")
    name: str | None = Field(default=None, description="file name or frame number, for people")
    captured_at: str = Field(description="UTC, RFC 3339")
    decided_at: str = Field(description="UTC, RFC 3339")
    latency_ms: float = Field(ge=0, description="capture to decision, on the device's monotonic clock")
    verdict: Verdict
    label: str | None = None
    score: float | None = Field(
        default=None, ge=0, description="evidence for a defect; an anomaly's is 1 at the threshold"
    )
    confidence: float | None = Field(default=None, ge=0, le=1)
    probabilities: dict[str, float] | None = None
    value: float | None = Field(default=None, description="estimate in the unit of the task, e.g. cycles that remain")
    low: float | None = Field(default=None, description="lower end of the estimate's interval")
    high: float | None = Field(default=None, description="upper end of the estimate's interval")
    channels: dict[str, float] | None = Field(default=None, description="shares of an anomaly by channel")
    marks: tuple[Mark, ...] | None = Field(
        default=None, max_length=MOST_MARKS, description="where it is, highest score first"
    )
    marks_found: int | None = Field(default=None, ge=0, description="how many there were, where not all are listed")
    reason: str | None = Field(default=None, description="why uncertain or no_decision")
    model: ModelIdentity | None = None
    policy_version: str | None = None


class DroppedRange(BaseModel):
    """Sequence numbers that will never arrive, both ends included, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_seq: int = Field(ge=0)
    last_seq: int = Field(ge=0)
    reason: str


class Envelope(BaseModel):
    """A Prediction, or a named loss, with its place in the stream.

    ``epoch`` is random and chosen when a journal is created; ``seq`` is contiguous from 0 within (stream, epoch).
    ``backfill`` is true when it was published later than its first chance. An envelope with ``dropped`` names
    a range of lost sequence numbers and has a ``seq`` of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    stream: str
    epoch: str = Field(pattern=r"^[0-9a-f]{16}$")
    seq: int = Field(ge=0)
    backfill: bool = False
    prediction: Prediction | None = None
    dropped: DroppedRange | None = None

    def to_json(self) -> bytes:
        """Serialise to compact UTF-8 JSON, absent fields left out."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_json(cls, payload: bytes | str) -> Envelope:
        """Parse and validate; raises pydantic.ValidationError on anything that is not an Envelope v1."""
        return cls.model_validate_json(payload)


def rfc3339(when: datetime) -> str:
    """Format an aware time as UTC RFC 3339 with milliseconds, e.g. ``2026-01-31T12:00:00.125Z``."""
    return when.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of what is published on the ``prediction`` topic."""
    schema = Envelope.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:edge-sft:envelope:v1",
        **schema,
    }


def schema_text() -> str:
    """Return the schema as the text of the published file."""
    return json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"

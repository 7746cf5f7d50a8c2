from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import jsonschema
import pytest
from pydantic import ValidationError

from edge_sft.prediction import DroppedRange, Envelope, ModelIdentity, Prediction, json_schema, rfc3339

PREDICTION = Prediction(
    stream="main",
    part_id="4711",
    captured_at="2026-01-31T12:00:00.125Z",
    decided_at="2026-01-31T12:00:00.140Z",
    latency_ms=15.2,
    verdict="nok",
    label="scratch",
    score=0.91,
    confidence=0.9,
    probabilities={"good": 0.09, "scratch": 0.91},
    model=ModelIdentity(name="caps", version="1.0.0", digest="0" * 64, variant="int8-cpu"),
    policy_version="abc",
)


def test_round_trip_and_schema() -> None:
    envelope = Envelope(stream="main", epoch="00ff00ff00ff00ff", seq=7, prediction=PREDICTION)
    assert Envelope.from_json(envelope.to_json()) == envelope
    jsonschema.validate(json.loads(envelope.to_json()), json_schema())
    lost = Envelope(
        stream="main", epoch="00ff00ff00ff00ff", seq=8, dropped=DroppedRange(first_seq=1, last_seq=3, reason="age")
    )
    jsonschema.validate(json.loads(lost.to_json()), json_schema())


@pytest.mark.parametrize("change", [{"seq": -1}, {"epoch": "x"}, {"surprise": 1}, {"schema_version": 2}])
def test_foreign_messages_are_refused(change: dict[str, object]) -> None:
    content = {"stream": "m", "epoch": "0" * 16, "seq": 0, **change}
    with pytest.raises(ValidationError):
        Envelope.from_json(json.dumps(content))


def test_times_are_utc() -> None:
    local = datetime(2026, 1, 1, 12, 0, 0, 1000, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(local) == "2026-01-01T10:00:00.001Z"

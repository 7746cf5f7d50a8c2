"""One trigger, one decision, always."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest

from edge_sft.prediction import Sample
from edge_sft.runtime.sources.iterator import IteratorSource
from edge_sft.runtime.sources.protocol import SourceStatus
from edge_sft.runtime.triggers import parse

FRAME = np.zeros((4, 4), np.uint8)
MQTT = {"kind": "mqtt", "timeout_ms": 200, "waiting_max": 5}


class FakeCamera:
    """A live source whose frames the test gives."""

    live = True

    def __init__(self) -> None:
        self.connected = True
        self._frames: list[Sample] = []
        self._came = threading.Condition()

    def shoot(self, name: str) -> None:
        with self._came:
            self._frames = [Sample(FRAME, datetime.now(timezone.utc), time.monotonic(), "main", name=name)]
            self._came.notify_all()

    def read(self, timeout_s: float) -> Sample | None:
        with self._came:
            self._came.wait_for(lambda: bool(self._frames), timeout_s)
            return self._frames.pop() if self._frames else None

    def settle(self, samples: Iterable[Sample]) -> None: ...

    @property
    def status(self) -> SourceStatus:
        return SourceStatus(self.connected, "" if self.connected else "camera is lost (no frame)")

    def close(self) -> None: ...


def message(part: Any, **more: Any) -> bytes:
    return json.dumps({"part_id": part, **more}).encode()


@pytest.mark.parametrize(
    ("payload", "part", "fault"),
    [
        (b'{"part_id": "A17"}', "A17", None),
        (b'{"part_id": 17, "shift": 2}', "17", None),
        (b"A17", None, "not understood"),
        (b'["A17"]', None, "not understood"),
        (b"{}", None, "not understood"),
        (b"\xff\xfe", None, "not understood"),
        (b"[" * 100_000, None, "not understood"),
        (b'{"part_id": ""}', None, "1 to 256"),
        (b'{"part_id": null}', None, "1 to 256"),
        (b'{"part_id": true}', None, "1 to 256"),
        (b'{"part_id": "' + b"x" * 300 + b'"}', None, "1 to 256"),
    ],
)
def test_messages(payload: bytes, part: str | None, fault: str | None) -> None:
    trigger = parse(payload, now=datetime.now(timezone.utc), monotonic_s=0.0)
    assert trigger.part_id == part
    assert (trigger.fault is None) if fault is None else (trigger.fault is not None and fault in trigger.fault)


def test_each_trigger_gets_the_next_frame_of_files(make_line: Callable[..., Any], eventually: Any) -> None:
    line = make_line(IteratorSource([FRAME] * 3, "main"), trigger=MQTT)
    time.sleep(0.2)
    assert line.out == []  # nothing without a trigger
    for part in ("A", "B", "C", "D"):
        line.pipeline.inbox.offer(message(part))
    eventually(lambda: len(line.out) == 4)
    assert [(one.part_id, one.verdict, one.reason) for one in line.out] == [
        ("A", "ok", None),
        ("B", "ok", None),
        ("C", "ok", None),
        ("D", "no_decision", "source has ended"),
    ]


def test_a_camera_gives_a_frame_taken_after_the_trigger(make_line: Callable[..., Any], eventually: Any) -> None:
    camera = FakeCamera()
    line = make_line(camera, trigger=MQTT)
    camera.shoot("stale")
    time.sleep(0.05)
    line.pipeline.inbox.offer(message("A"))
    time.sleep(0.05)
    assert line.out == []
    camera.shoot("fresh")
    eventually(lambda: line.out)
    assert (line.out[0].name, line.out[0].part_id, line.out[0].verdict) == ("fresh", "A", "ok")
    assert line.out[0].latency_ms >= 50  # counts from the trigger


def test_a_camera_is_connected_before_the_first_trigger(
    make_line: Callable[..., Any], fakes: Any, eventually: Callable[..., Any]
) -> None:
    from edge_sft.runtime.sources.reopening import ReopeningSource

    opened: list[FakeCamera] = []

    def opener() -> FakeCamera:
        opened.append(FakeCamera())
        return opened[-1]

    make_line(ReopeningSource(opener, live=True), trigger=MQTT)
    make_line(ReopeningSource(opener, live=True), fakes.Loader())  # nor does it wait for a model
    eventually(lambda: len(opened) == 2)


def test_without_a_frame_the_answer_is_no_decision(make_line: Callable[..., Any], eventually: Any) -> None:
    camera = FakeCamera()
    line = make_line(camera, trigger=MQTT)
    line.pipeline.inbox.offer(message("A"))
    eventually(lambda: len(line.out) == 1)
    camera.connected = False
    began = time.monotonic()
    for part in ("B", "C", "D"):  # those that wait do not each wait their own timeout
        line.pipeline.inbox.offer(message(part))
    eventually(lambda: len(line.out) == 4)
    assert time.monotonic() - began < 1
    assert [(one.part_id, one.verdict, one.reason) for one in line.out] == [
        ("A", "no_decision", "no fresh frame within 200 ms"),
        ("B", "no_decision", "camera not available"),
        ("C", "no_decision", "camera not available"),
        ("D", "no_decision", "camera not available"),
    ]
    assert "source_lost" in line.kinds()


def test_nothing_deployed_is_an_answer_too(
    make_line: Callable[..., Any], fakes: Any, eventually: Callable[..., Any]
) -> None:
    line = make_line(IteratorSource([FRAME], "main"), fakes.Loader(), trigger=MQTT)
    line.pipeline.inbox.offer(message("A"))
    eventually(lambda: line.out)
    assert (line.out[0].verdict, line.out[0].reason) == ("no_decision", "no model is deployed")


def test_what_is_not_understood_is_answered(make_line: Callable[..., Any], eventually: Callable[..., Any]) -> None:
    line = make_line(IteratorSource([FRAME], "main"), trigger=MQTT)
    line.pipeline.inbox.offer(b"part 17")
    eventually(lambda: line.out)
    assert "not understood" in line.out[0].reason


def test_the_same_trigger_delivered_twice_is_one(make_line: Callable[..., Any], eventually: Callable[..., Any]) -> None:
    line = make_line(IteratorSource([FRAME] * 9, "main"), trigger=MQTT)
    for _ in range(3):
        line.pipeline.inbox.offer(message("A", trigger_id="t1"))
    line.pipeline.inbox.offer(message("A", trigger_id="t2"))  # the same part, inspected again
    eventually(lambda: len(line.out) == 2)
    time.sleep(0.2)
    assert len(line.out) == 2


def test_too_many_triggers_are_refused_with_an_answer(
    make_line: Callable[..., Any], fakes: Any, eventually: Callable[..., Any]
) -> None:
    camera = FakeCamera()
    line = make_line(camera, trigger={**MQTT, "timeout_ms": 400})
    for number in range(20):
        line.pipeline.inbox.offer(message(number))
    eventually(lambda: len(line.out) == 20)
    assert sorted(int(one.part_id) for one in line.out) == list(range(20))
    assert all(one.verdict == "no_decision" for one in line.out)
    assert any("more than 5 triggers" in one.reason for one in line.out)


def test_one_to_one_also_when_the_queue_drops(make_line: Callable[..., Any], fakes: Any, eventually: Any) -> None:
    slow = fakes.Loader(fakes.Model(infer_s=0.02))
    queue = {"size": 2, "policy": "latest"}
    trigger = {**MQTT, "waiting_max": 1000}
    line = make_line(IteratorSource([FRAME] * 100, "main"), slow, trigger=trigger, queue=queue)
    for number in range(100):
        line.pipeline.inbox.offer(message(number))
    eventually(lambda: len(line.out) == 100)
    assert [int(one.part_id) for one in line.out] == list(range(100))
    dropped = [one for one in line.out if one.verdict == "no_decision"]
    assert dropped
    assert len(dropped) == line.pipeline.meter.counts["dropped"]


def test_stopping_answers_the_triggers_that_wait(make_line: Callable[..., Any], fakes: Any) -> None:
    line = make_line(FakeCamera(), trigger={**MQTT, "timeout_ms": 5000})
    for part in ("A", "B", "C"):
        line.pipeline.inbox.offer(message(part))
    time.sleep(0.05)
    assert line.pipeline.stop(5)
    assert sorted(one.part_id for one in line.out) == ["A", "B", "C"]
    assert all(one.verdict == "no_decision" for one in line.out)


def test_file_names_hold_the_part(make_line: Callable[..., Any], sample: Any, eventually: Callable[..., Any]) -> None:
    frames = [
        sample(0, name="P17_left.png"),
        sample(1, name="test.png"),
        sample(2, name="P18.png", data=None, fault="x"),
    ]
    trigger = {"kind": "filename", "pattern": r"^(?P<part_id>P\d+)"}
    line = make_line(IteratorSource(frames, "main"), trigger=trigger)
    eventually(lambda: len(line.out) == 3)
    assert [(one.part_id, one.verdict) for one in line.out] == [
        ("P17", "ok"),
        (None, "no_decision"),
        ("P18", "no_decision"),
    ]
    assert "no part id" in line.out[1].reason

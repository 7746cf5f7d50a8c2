"""Models that say where, from a bundle to MQTT; and pictures of what they found, on a topic of their own."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from edge_sft.errors import UserError
from edge_sft.prediction import Prediction, Sample
from edge_sft.preprocess import Preprocess, Tiles
from edge_sft.runtime import config as configs
from edge_sft.runtime.agent import Agent
from edge_sft.runtime.config import SnapshotSection
from edge_sft.runtime.meter import Meter
from edge_sft.runtime.snapshots import Snapshots, Wanted
from edge_sft.runtime.sources.iterator import IteratorSource
from edge_sft.slots.predictor import Explained

FILES = {"kind": "files", "path": "."}
SPEC = Preprocess(height=256, width=256, tiles=Tiles(overlap=32), mm_per_pixel=0.1)


@pytest.fixture
def deploy_where(tmp_path: Path, small: ModuleType, dense: ModuleType) -> Callable[..., Any]:
    """deploy_where(root, kind) really deploys a small signed bundle that says where."""
    from edge_sft.deploy.local import deploy

    signer = small.Signer.make(tmp_path / "keys-where")

    def run(root: Path, kind: str, pipeline: str = "main", **changes: Any) -> Any:
        bundle = dense.DensePlan(kind, **changes).write(tmp_path / f"bundles-{pipeline}", signer.private)
        profile = small.profile()
        return deploy(bundle, root, pipeline=pipeline, profile=profile, trusted_keys=[signer.public], timeout_s=60)

    return run


@pytest.mark.parametrize(("kind", "version"), [("anomaly", "3.1.1"), ("detection", "5"), ("segmentation", "3.1.1")])
def test_from_a_bundle_to_decisions_with_marks_and_a_picture_of_what_is_bad(
    kind: str,
    version: str,
    tmp_path: Path,
    broker: Any,
    dense: ModuleType,
    listen: Callable[..., Any],
    deploy_where: Callable[..., Any],
    configure: Callable[..., Any],
    running: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    deploy_where(tmp_path, kind, preprocess=SPEC, size=256)
    heard = listen(broker.port)
    pipeline = {"source": FILES, "snapshot": {"max_bytes": 60_000}}
    frames = [dense.frame(400, 310), dense.frame(400, 310, (100, 124, 12)), dense.frame(400, 310)]
    agent = Agent(
        configure(tmp_path, broker.port, pipeline, mqtt={"version": version}),
        sources={"main": Paused(frames, heard, eventually)},
    )
    running(agent)
    eventually(lambda: len(heard.predictions()) == 3)
    assert [one.verdict for one in heard.predictions()] == ["ok", "nok", "ok"]
    bad = heard.envelopes()[1]
    assert bad.prediction is not None
    mark = (bad.prediction.marks or ())[0]
    assert ((mark.left + mark.right) / 2, (mark.top + mark.bottom) / 2) == pytest.approx((130, 106), abs=4)
    assert mark.length_mm == pytest.approx(1.2, abs=0.4)
    eventually(lambda: heard.said("snapshot"))
    time.sleep(0.3)
    (shown,) = heard.said("snapshot")
    assert (shown["stream"], shown["epoch"], shown["seq"]) == (bad.stream, bad.epoch, bad.seq)
    assert (shown["verdict"], shown["name"], shown["captured_at"]) == (
        "nok",
        bad.prediction.name,
        bad.prediction.captured_at,
    )
    raw = next(body for topic, body, _ in heard.messages if topic.endswith("/snapshot"))
    assert len(raw) <= 60_000
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(shown["image"]), np.uint8), cv2.IMREAD_COLOR)
    assert max(picture.shape) >= 512
    counts = eventually(
        lambda: next((m["counts"] for m in heard.said("metrics") if m["counts"].get("snapshots")), None)
    )
    assert counts["snapshots"] == 1


class Paused(IteratorSource):
    """Frames that come once both of the agent's connections stand and the model is loaded."""

    def __init__(self, frames: list[np.ndarray], heard: Any, eventually: Callable[..., Any]) -> None:
        super().__init__(frames, "main")
        self._until = lambda: heard.state().get("status") in ("running", "finished")
        self._ready = False

    def read(self, timeout_s: float) -> Sample | None:
        if not self._ready:
            self._ready = bool(self._until())
            time.sleep(0.3)
            return None
        return super().read(timeout_s)


def test_there_are_none_unless_asked_for(
    tmp_path: Path,
    broker: Any,
    dense: ModuleType,
    listen: Callable[..., Any],
    deploy_where: Callable[..., Any],
    configure: Callable[..., Any],
    running: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    deploy_where(tmp_path, "detection")
    heard = listen(broker.port)
    agent = Agent(
        configure(tmp_path, broker.port, {"source": FILES}),
        sources={"main": Paused([dense.frame(64, 64, (8, 8, 12))], heard, eventually)},
    )
    running(agent)
    eventually(heard.predictions)
    assert agent.pictures_link is None
    time.sleep(0.3)
    assert heard.said("snapshot") == []


def test_a_broker_that_was_away_gets_the_decisions_and_not_the_pictures(
    tmp_path: Path,
    broker: Any,
    dense: ModuleType,
    listen: Callable[..., Any],
    deploy_where: Callable[..., Any],
    configure: Callable[..., Any],
    running: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    deploy_where(tmp_path, "detection")
    gate = threading.Event()
    bad = dense.frame(64, 64, (8, 8, 12))

    def frames() -> Any:
        for _ in range(5):
            yield bad
        gate.wait(60)
        for _ in range(3):
            yield bad

    broker.stop()
    agent = Agent(
        configure(tmp_path, broker.port, {"source": FILES, "snapshot": {}}),
        sources={"main": IteratorSource(frames(), "main")},
    )
    running(agent)
    counts = agent.pipelines[0].meter
    eventually(lambda: counts.counts.get("snapshots_left_out") == 5)
    broker.start()
    heard = listen(broker.port)
    eventually(lambda: agent.pictures_link is not None and agent.pictures_link.connected)
    eventually(lambda: len(heard.predictions()) == 5)
    gate.set()
    eventually(lambda: len(heard.predictions()) == 8)
    eventually(lambda: heard.said("snapshot"))
    assert {shown["seq"] for shown in heard.said("snapshot")} <= {5, 6, 7}
    eventually(lambda: any(e["kind"] == "snapshot_left_out" and "away" in e["detail"] for e in heard.said("event")))


# --- the parts -----------------------------------------------------------------------------------------------


class Link:
    """A connection that the test works."""

    def __init__(self) -> None:
        self.connected, self.session, self.window = True, 1, 100
        self.sent: list[dict[str, Any]] = []
        self.done: list[Callable[[bool], None]] = []
        self.at_once = True

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False, *, done: Any = None) -> bool:
        assert (topic, qos, retain) == ("t", 0, False)
        if not self.connected:
            return False
        self.sent.append(json.loads(payload))
        self.done.append(done)
        if self.at_once:
            done(True)
        return True


class Model:
    """What is used of a crew."""

    mm_per_pixel = None

    def __init__(self, height: int = 200, width: int = 300) -> None:
        self.frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        self.slow: threading.Event | None = None

    def shown(self, sample: Any, prediction: Prediction, heat: Any) -> Explained | None:
        if self.slow is not None:
            self.slow.wait(20)
        if self.frame is None:
            raise ValueError("a bug")
        return Explained(self.frame, self.frame.shape[:2], prediction, heat)


class Bench:
    """Snapshots without an agent."""

    def __init__(self, **section: Any) -> None:
        self.link, self.model, self.meter, self.now = Link(), Model(), Meter(), 1000.0
        self.told: list[str] = []
        self.seq = 0
        self.snapshots = Snapshots(
            SnapshotSection(**section),
            self.link,  # type: ignore[arg-type]
            "t",
            meter=self.meter,
            tell=lambda kind, detail: self.told.append(detail),
            clock=lambda: self.now,
        )

    def decide(self, verdict: Any = "nok", *, numbered: bool = True, **fields: Any) -> Prediction:
        told = Prediction(
            stream="main",
            captured_at="2026-01-01T00:00:00.000Z",
            decided_at="",
            latency_ms=1,
            verdict=verdict,
            **fields,
        )
        sample: Any = SimpleNamespace(name="n")
        self.snapshots.offer(Wanted(told, sample, self.model, None))  # type: ignore[arg-type]
        if numbered:
            self.snapshots.numbered([(told, ("main", "0" * 16, self.seq))])
        self.seq += 1
        return told

    def work(self) -> None:
        while self.snapshots._step():
            pass

    @property
    def left_out(self) -> int:
        return self.meter.counts.get("snapshots_left_out", 0)


def test_only_the_verdicts_asked_for() -> None:
    bench = Bench(when=("uncertain",))
    for verdict in ("ok", "nok", "uncertain", "no_decision"):
        bench.decide(verdict, part_id="Prüfling", score=0.5)
    bench.work()
    assert [(one["verdict"], one["seq"], one["part_id"], one["score"]) for one in bench.link.sent] == [
        ("uncertain", 2, "Prüfling", 0.5)
    ]
    assert bench.left_out == 0


def test_at_most_so_many_a_minute() -> None:
    bench = Bench(max_per_minute=2)
    for _ in range(5):
        bench.decide()
        bench.work()
        bench.now += 1
    assert ([one["seq"] for one in bench.link.sent], bench.left_out) == ([0, 1], 3)
    assert len(bench.told) == 1
    bench.now += 60
    bench.decide()
    bench.work()
    assert len(bench.link.sent) == 3


@pytest.mark.parametrize("most", [10_000, 50_000, 1_000_000])
def test_a_message_is_no_longer_than_allowed(most: int) -> None:
    bench = Bench(max_bytes=most)
    bench.model = Model(2000, 3000)
    bench.decide(part_id="ü" * 100, name="x" * 200)
    bench.work()
    assert len(json.dumps(bench.link.sent[0], ensure_ascii=False, separators=(",", ":")).encode()) <= most


def test_what_cannot_fit_is_left_out_and_said() -> None:
    bench = Bench(max_bytes=10_000)
    bench.decide(name="x" * 3000)
    bench.work()
    assert (bench.link.sent, bench.left_out) == ([], 1)
    assert "does not fit into 10,000 bytes" in bench.told[0]


def test_one_at_a_time_goes_over_a_slow_link_and_few_wait() -> None:
    bench = Bench(max_per_minute=1000)
    bench.link.at_once = False
    for _ in range(20):
        bench.decide()
        bench.work()
    assert (len(bench.link.sent), bench.left_out) == (1, 15)  # one under way, four wait
    for count in range(2, 6):
        bench.link.done[-1](True)
        bench.work()
        assert len(bench.link.sent) == count
    bench.decide()
    bench.work()
    assert len(bench.link.sent) == 5
    bench.link.session += 1  # the connection went, and the answer with it
    bench.work()
    assert len(bench.link.sent) == 6


def test_a_decision_that_the_journal_dropped_is_forgotten() -> None:
    bench = Bench(max_per_minute=1000)
    for _ in range(4):
        bench.decide(numbered=False)
    bench.decide()
    assert bench.left_out == 1
    bench.now += 31
    bench.decide()
    bench.work()
    assert [one["seq"] for one in bench.link.sent] == [5]


def test_a_picture_that_cannot_be_drawn_stops_nothing() -> None:
    bench = Bench()
    frame, bench.model.frame = bench.model.frame, None  # type: ignore[assignment]
    bench.decide()
    bench.work()
    bench.model.frame = frame
    bench.decide()
    bench.work()
    assert (len(bench.link.sent), bench.left_out) == (1, 1)
    assert "drawing failed (ValueError" in bench.told[0]


def test_decisions_do_not_wait_for_pictures(
    make_line: Callable[..., Any], fakes: Any, eventually: Callable[..., Any]
) -> None:
    stuck = threading.Event()

    class Shows(fakes.Model):  # type: ignore[name-defined,misc]
        def _say(self, one: Sample, verdict: Any, reason: Any) -> Prediction:
            told: Prediction = super()._say(one, "nok", reason)
            return told

        def shown(self, *_: Any) -> None:
            stuck.wait(20)

    bench = Bench(max_per_minute=1000)
    line = make_line(
        IteratorSource([np.zeros((4, 4), np.uint8)] * 50, "main"), fakes.Loader(Shows()), start=False, snapshot={}
    )
    line.pipeline.snapshots = bench.snapshots
    append = line.out.append

    def numbered(prediction: Prediction) -> None:
        append(prediction)
        bench.snapshots.numbered([(prediction, ("main", "0" * 16, len(line.out)))])

    line.pipeline._sink = numbered
    line.pipeline.start()
    eventually(lambda: line.pipeline.finished, 10)
    assert len(line.out) == 50
    assert bench.left_out >= 40
    stuck.set()


def test_agent_toml_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    head = '[[pipeline]]\nname = "cam"\nsource = { kind = "camera", device = 0 }\n'
    path.write_text(head + "[pipeline.snapshot]\n")
    section = configs.load(path).pipeline[0].snapshot
    assert section == SnapshotSection()
    assert section is not None
    assert (section.when, section.max_bytes, section.max_per_minute) == (("nok", "uncertain"), 200_000, 30)
    for line in ("when = []", 'when = ["bad"]', "max_bytes = 100", "max_per_minute = 0", "every = 1"):
        path.write_text(head + f"[pipeline.snapshot]\n{line}\n")
        with pytest.raises(UserError, match=r"snapshot\."):
            configs.load(path)
    rows = '[[pipeline]]\nsource = { kind = "replay", path = "x" }\nsnapshot = {}\n'
    path.write_text(rows)
    with pytest.raises(UserError, match="shows pictures"):
        configs.load(path)

"""Rows from a real Mosquitto through the whole agent: many assets, what arrives broken, kills and an absent agent."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_sft.policy import AlarmRule, RegressionPolicy
from edge_sft.prediction import Rows
from edge_sft.runtime.agent import Agent

SOURCE = {"kind": "mqtt", "topics": ["plant/+/sensors"], "asset": "topic:1", "time_format": "number"}


class Sender:
    """A gateway that publishes rows, one message a row, QoS 1."""

    def __init__(self, port: int) -> None:
        import paho.mqtt.client as mqtt

        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def send(self, rows: Rows, at: int) -> Any:
        message = {"time": float(rows.time_s[at]), **dict(zip(rows.channels, rows.values[at].tolist(), strict=True))}
        return self.raw(f"plant/{rows.asset}/sensors", json.dumps(message))

    def raw(self, topic: str, payload: str) -> Any:
        return self.client.publish(topic, payload, 1)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_rows_of_many_assets_become_decisions_states_and_cases(
    tmp_path: Path,
    broker: Any,
    factory: Any,
    how: Callable[..., Any],
    rows: Callable[..., Rows],
    offline: Any,
    same: Any,
    listen: Callable[..., Any],
    configure: Callable[..., Any],
    running: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    root = tmp_path / "root"
    policy = RegressionPolicy(act_below=2.0, judge="value", alarm=AlarmRule(on_after_s=0.5, stale_s=3.0))
    slot = factory.install(root, policy=policy)
    heard = listen(broker.port)
    assets = {"expected": ["pump-0", "never-heard"], "late_s": 0.0}
    agent = Agent(configure(root, broker.port, {"source": SOURCE, "assets": assets}))
    end = running(agent)
    eventually(lambda: heard.state().get("status") == "running")
    recordings = [rows(f"pump-{number}", 60) for number in range(20)]
    recordings[3].values[20:, 0] = 0.5  # what opens a case
    sender = Sender(broker.port)
    for at in range(60):
        for one in recordings:
            sender.send(one, at)
        if at == 30:
            sender.raw("plant/pump-1/sensors", "{not json")
            sender.raw("plant/pump-1/sensors", '{"time": "yesterday", "c0": 1}')
            sender.raw("plant/pump-1/sensors", f'{{"time": {"9" * 400}, "c0": 1}}')
            sender.raw("plant/pump-1/sensors", "[" * 5000)
    eventually(lambda: len(heard.predictions()) >= 20 * 28, 30)
    assert sorted(e.seq for e in heard.envelopes()) == list(range(len(heard.envelopes())))
    opened = eventually(lambda: [e for e in heard.said("event") if e["kind"] == "case_opened"])
    assert [e["facts"]["asset"] for e in opened] == ["pump-3"]
    state = eventually(
        lambda: next(
            (s for s in heard.said("state") if s.get("assets", {}).get("counts", {}).get("online") == 20), None
        )
    )
    assert state["assets"]["counts"]["offline"] == 1
    assert "offline" in state["assets"]["not_online"]["never-heard"]
    refused = eventually(lambda: [e for e in heard.said("event") if e["kind"] == "rows_refused"])
    assert any("is not JSON" in e["detail"] or "time that is none" in e["detail"] for e in refused)
    eventually(lambda: heard.state()["assets"]["counts"]["offline"] == 21, what="silence is told")
    assert heard.state()["assets"]["open_cases"] == 1, "silence closes no case"
    assert heard.state()["assets"]["cases"]["pump-3"]["number"] == 1
    eventually(lambda: any("assets (pump-0" in e["detail"] for e in heard.said("event")), what="one sentence for many")
    sender.close()
    end()
    # on a busy machine the first may come as backfill, beside later ones: receivers order by number
    numbered = [e.prediction for e in sorted(heard.envelopes(), key=lambda e: e.seq) if e.prediction is not None]
    for one in recordings:
        got = {str(p.name): p for p in numbered if p.asset == one.asset}
        want = offline(slot.path, one)
        want = {name: want[name] for name in list(want)[: len(got)]}  # the last step is complete with the next row
        assert len(got) >= 28
        assert same(got, want) <= 1e-5


def test_decisions_about_rows_of_long_ago_are_never_taken_for_fresh_ones(
    tmp_path: Path,
    broker: Any,
    factory: Any,
    configure: Any,
    running: Any,
    rows: Callable[..., Rows],
    listen: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    """A broker hands on what it kept for hours: `last_decision_age_s` is small, and what is decided is history."""
    root = tmp_path / "root"
    factory.install(root)
    heard = listen(broker.port)
    source = {**SOURCE, "time_format": "seconds"}
    end = running(Agent(configure(root, broker.port, {"source": source})))
    eventually(lambda: heard.state().get("status") == "running")
    sender = Sender(broker.port)
    for start in (time.time() - 7200.0, time.time()):
        one = rows("pump-1", 60, start=start)
        for at in range(60):
            sender.send(one, at)
        old = start < time.time() - 3600
        eventually(lambda old=old: ("rows of 7" in heard.state()["detail"]) is old, what="the age of rows is told")
        assert (heard.state()["rows_behind_s"] > 7000) is old
        assert heard.state()["status"] == "running"
    sender.close()
    end()


_AGENT = """
import threading
from pathlib import Path
from edge_sft.runtime.agent import Agent
from edge_sft.runtime.config import AgentConfig
config = AgentConfig.model_validate({{
    "agent": {{"root": Path({root!r}), "heartbeat_s": 0.5}}, "mqtt": {{"port": {port}}},
    "pipeline": [{{"source": {source!r}, "assets": {{"save_every_s": 0.5, "late_s": 0.2}}}}],
}})
print("ready", flush=True)
Agent(config).run(threading.Event())
"""


def test_killed_while_rows_come_and_every_decision_arrives(
    tmp_path: Path,
    broker: Any,
    factory: Any,
    how: Callable[..., Any],
    rows: Callable[..., Rows],
    offline: Any,
    same: Any,
    listen: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    """The broker keeps what comes while nobody is there; what was taken is in the raw ring; nothing counts twice.

    A mean over a grid cell is what shows a row that was lost or counted twice.
    """
    root = tmp_path / "root"
    slot = factory.install(root, how=how(aggregate="mean", period_s=0.2))
    heard = listen(broker.port)
    script = textwrap.dedent(_AGENT).format(root=str(root), port=broker.port, source=SOURCE)

    def start() -> subprocess.Popen[str]:
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    child = start()
    eventually(lambda: heard.state().get("status") == "running", 30)
    recordings = [rows(f"pump-{number}", 160) for number in range(4)]
    sender = Sender(broker.port)
    for at in range(160):
        for one in recordings:
            sender.send(one, at)
        time.sleep(0.03)
        if at in (40, 90, 120):
            child.send_signal(signal.SIGKILL)
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
        if at in (50, 90, 125):
            child = start()
    names = {one.asset: list(offline(slot.path, one)) for one in recordings}
    last = {asset: found[-2] for asset, found in names.items()}
    eventually(
        lambda: all(any(p.asset == a and p.name == name for p in heard.predictions()) for a, name in last.items()), 40
    )
    child.send_signal(signal.SIGTERM)
    child.kill()
    child.wait()
    assert child.stdout is not None
    child.stdout.close()
    sender.close()
    for one in recordings:
        mine = {str(p.name): p for p in heard.predictions() if p.asset == one.asset}
        got = dict(sorted(mine.items(), key=lambda item: float(item[0])))
        want = {name: p for name, p in offline(slot.path, one).items() if name in got}
        assert list(want) == list(offline(slot.path, one))[: len(want)]
        assert len(want) >= len(names[one.asset]) - 1
        assert same(got, want) <= 1e-4
    assert np.isfinite([p.value for p in heard.predictions()]).all()

"""The stream of streamed.py: unseen runs, a broker, the real agent, and who kills it."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from agent_broker import mosquitto
from numpy.typing import NDArray
from sensor_bundles import Made, environment

from edge_sft.preprocess import Windowing

HERE = Path(__file__).resolve().parent
BROKER = "max_inflight_messages 1000\npersistence false\n"
_QUIET_S = 30.0  # without a new decision: what is missing now will not come
_AHEAD = 0.1  # share of the rows that may be sent before their decisions: kills fall into the middle of the stream

Key = tuple[str, str]  # machine, name of the window


@dataclass(frozen=True)
class Run:
    """An unseen run as its file holds it, read as `edge-sft predict` reads it.

    ``asset`` is who it is on the line: the machine, or the recording where several are of one machine (they cannot come
    from it at the same time); ``machine`` is what `predict` calls it.
    """

    asset: str
    machine: str
    path: Path
    time: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass
class Heard:
    """What came over the broker: a Prediction a key, and how often."""

    found: dict[Key, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    seqs: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    dropped: int = 0
    state: dict[str, Any] = field(default_factory=dict)
    changed_s: float = 0.0


def unseen_runs(one: Made, most_rows: int) -> list[Run]:
    """Read files until there are so many rows, by the bundle's own recipe."""
    from edge_sft import sensor_recipe
    from edge_sft.data.sensors.columns import parts_of, wanted
    from edge_sft.data.sensors.tables import read_tables

    recipe = sensor_recipe.load(one.folder / "recipe.toml")
    found: list[Run] = []
    for path in one.unseen:
        tables = read_tables(path, path.name, wanted(recipe.data))
        assert not isinstance(tables, str), tables
        for part in [part for table in tables for part in parts_of(table, recipe)]:
            assert not isinstance(part, str), part
            found.append(Run("", part.asset or part.group, path, part.time, part.values))
        if sum(len(run.time) for run in found) >= most_rows:
            break
    times = Counter(run.machine for run in found)
    return [replace(run, asset=run.machine if times[run.machine] == 1 else run.path.stem) for run in found]


def messages(runs: Sequence[Run], channels: Sequence[str], period_s: float, most: int) -> Iterator[tuple[str, bytes]]:
    """Rows of all machines in turn, cut at random; one more row a machine ends its last cell."""
    rng = random.Random(0)
    waiting = {run.asset: (run, 0) for run in runs}
    while waiting:
        for asset, (run, start) in list(waiting.items()):
            stop = start + rng.randint(1, most)
            time_, values = run.time[start:stop], run.values[start:stop]
            if stop >= len(run.time):
                del waiting[asset]
                time_ = np.append(time_, run.time[-1] + period_s)
                values = np.concatenate([values, run.values[-1:]])
            else:
                waiting[asset] = (run, stop)
            body: dict[str, Any] = {"time": time_.tolist()}
            for column, name in enumerate(channels):
                body[name] = [None if math.isnan(number) else number for number in values[:, column].tolist()]
            yield f"plant/{asset}/rows", json.dumps(body).encode()


class Line:
    """Broker's client of this process: sends rows, hears decisions."""

    def __init__(self, port: int) -> None:
        import paho.mqtt.client as mqtt

        self.heard, self._acknowledged, self.sent = Heard(), 0, 0
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.max_queued_messages_set(0)
        self._client.max_inflight_messages_set(1000)
        self._client.on_message = lambda _c, _u, message: self._take(message)
        self._client.on_publish = lambda *_: setattr(self, "_acknowledged", self._acknowledged + 1)
        ready = threading.Event()
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        kinds = [(f"edge-sft/v1/+/+/+/+/{kind}", 1) for kind in ("prediction", "state")]
        self._client.subscribe(kinds)
        assert ready.wait(10)

    def _take(self, message: Any) -> None:
        body = json.loads(message.payload)
        if message.topic.endswith("/state"):
            self.heard.state = body
        elif body.get("dropped"):
            self.heard.dropped += body["dropped"]["last_seq"] - body["dropped"]["first_seq"] + 1
        elif body["seq"] not in self.heard.seqs[body["epoch"]]:
            self.heard.seqs[body["epoch"]].add(body["seq"])
            prediction = body["prediction"]
            self.heard.found[prediction["asset"], prediction["name"]].append(prediction)
            self.heard.changed_s = time.monotonic()

    def send(self, topic: str, payload: bytes) -> None:
        while self.sent - self._acknowledged > 500:
            time.sleep(0.002)
        self._client.publish(topic, payload, 1)
        self.sent += 1

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Agent:
    """The process under test."""

    def __init__(self, folder: Path, port: int, work: Path) -> None:
        self._folder, self._work = folder, work
        self.tap = folder / "tap.jsonl"
        (folder / "agent.toml").write_text(
            f'[agent]\nlog = "warning"\nheartbeat_s = 1.0\nmetrics_s = 1.0\n[mqtt]\nport = {port}\n'
            'backfill_per_s = 5000\n[[pipeline]]\nname = "main"\nthreads = 1\n'
            '[pipeline.source]\nkind = "mqtt"\ntopics = ["plant/+/rows"]\ntime_format = "number"\n'
            "[pipeline.assets]\nsave_every_s = 3.0\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, heard: Heard) -> None:
        """Start it and wait until it has its model and its broker."""
        heard.state = {}
        words = ["run", "--config", str(self._folder / "agent.toml"), "--root", str(self._folder / "root")]
        command = [sys.executable, str(HERE / "streamed_tap.py"), str(self.tap), *words]
        with (self._folder / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment(self._work), stdout=log, stderr=log)
        until = time.monotonic() + 90
        while not (heard.state.get("model") and heard.state.get("status") == "running"):
            if self._process.poll() is not None or time.monotonic() > until:
                sys.exit(f"the agent did not start: {heard.state}\n{(self._folder / 'agent.log').read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(60)


class Striker:
    """Kills and starts the agent at given shares of the decisions, while rows go on being sent."""

    def __init__(self, agent: Agent, heard: Heard, expected: int, kills: int) -> None:
        self._agent, self._heard, self._expected = agent, heard, expected
        self._at = [(turn + 1) / (kills + 1) for turn in range(kills)]
        self._rng = random.Random(kills)
        self._due_s: float | None = None
        self._starting: threading.Thread | None = None
        self.told: list[str] = []

    @property
    def share(self) -> float:
        return len(self._heard.found) / self._expected

    def look(self, sent: float) -> None:
        """Strike when it is time, up to a third of a second later: in a read, a decision, a write, or between."""
        now_s = time.monotonic()
        if self._due_s is None:
            if self._at and self.share >= self._at[0] and not (self._starting and self._starting.is_alive()):
                self._due_s = now_s + self._rng.uniform(0.0, 0.3)
        elif now_s >= self._due_s:
            self._due_s = None
            del self._at[0]
            self._agent.kill()
            self.told.append(f"at {100 * sent:.0f} % of the rows sent, {100 * self.share:.0f} % of the decisions heard")
            self._starting = threading.Thread(target=self._start)
            self._starting.start()

    def _start(self) -> None:
        time.sleep(0.5)  # rows come meanwhile and wait at the broker
        self._agent.start(self._heard)

    def wait(self) -> None:
        if self._starting is not None:
            self._starting.join()


def stream(
    folder: Path, work: Path, runs: Sequence[Run], windowing: Windowing, expected: set[Key], kills: int, most: int
) -> tuple[Heard, list[str], float, int]:
    """Send everything, kill and start in between; returns what was heard, each kill, seconds, messages."""
    names = [channel.name for channel in windowing.channels]
    everything = list(messages(runs, names, windowing.period_s, most))
    with mosquitto(folder, BROKER) as port:
        line, agent = Line(port), Agent(folder, port, work)
        striker = Striker(agent, line.heard, len(expected), kills)
        try:
            agent.start(line.heard)
            began = time.monotonic()
            for count, (topic, payload) in enumerate(everything):
                sent = count / len(everything)
                until = time.monotonic() + 5.0  # where a long time brings no window, go on
                while sent > striker.share + _AHEAD and time.monotonic() < until:
                    striker.look(sent)
                    time.sleep(0.002)
                striker.look(sent)
                line.send(topic, payload)
            line.heard.changed_s = time.monotonic()
            while line.heard.found.keys() < expected and time.monotonic() - line.heard.changed_s < _QUIET_S:
                striker.look(1.0)
                time.sleep(0.02)
            took = time.monotonic() - began
            striker.wait()
            time.sleep(2.0)
            agent.stop()
        finally:
            striker.wait()
            agent.stop()
            line.close()
    return line.heard, striker.told, took, len(everything)

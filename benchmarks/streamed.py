"""Streamed = offline, on every sensor data set, with the agent killed -9 in mid-stream.

    python benchmarks/streamed.py --work DIR [--only FD001,skab] [--kills 4] [--most-rows 2500000]

DIR holds the bundles of sensor_bundles.py. Each is deployed to a new folder by `edge-sft deploy` (and every unseen
machine commissioned by `edge-sft commission` where the model wants it), then the real agent (`edge-sft run`, with a tap
that writes down what its model is asked) gets the rows of the unseen runs as JSON over a real Mosquitto, in messages of
1 to 20 rows (CWRU: to 2,000) from all machines in turn. It is killed -9 `--kills` times while rows come, and started
again. Predictions are collected from the broker. Against that stand, from the same files:

* windows: `grid_run` + `cut` of each whole run; every one must have been asked, bit for bit, and come over the broker;
* equal batch: `WindowPredictor.decide` on the batches that the agent made: all of a Prediction's numbers bit for bit;
* otherwise: one window at a time, and `edge-sft predict` (its own batches): largest difference over the output's scale;
* conditions: `ArgMin` of every variant's graph on every grid row of every unseen run against numpy's nearest centre.

Nothing is scored against labels.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from agent_broker import machine, mosquitto
from numpy.typing import NDArray
from sensor_bundles import SETS, Made, environment, made
from streamed_tap import digest, said

from edge_sft.preprocess import Windowing
from edge_sft.preprocess.cutting import cut, ends_of
from edge_sft.preprocess.gridding import Grid, grid_run
from edge_sft.preprocess.window import Window
from edge_sft.slots.window_predictor import Captured, WindowPredictor, name_of

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "streamed.md"
BROKER = "max_inflight_messages 1000\npersistence false\n"
_NUMBERS = ("score", "value", "low", "high", "confidence")
_TITLES = (
    "| set | runs | rows | windows | variant | agent's batches (mean) | kill -9 | windows, other bits | missing "
    "| equal batch, other bits | one by one, max diff / scale | `predict`, max diff / scale | verdicts changed |"
)
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
    taken: int = 0
    changed_s: float = 0.0


# --- the offline side ----------------------------------------------------------------------------------------------


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


def rounds(runs: Sequence[Run]) -> list[list[Run]]:
    """Share runs out so that no machine comes twice in one."""
    found: list[list[Run]] = []
    for run in runs:
        place = next((one for one in found if run.machine not in {other.machine for other in one}), None)
        if place is None:
            found.append([run])
        else:
            place.append(run)
    return found


def offline_windows(windowing: Windowing, runs: Sequence[Run]) -> dict[Key, Window]:
    """Cut every window of every run from the whole grid."""
    found: dict[Key, Window] = {}
    for run in runs:
        grid: Grid = grid_run(windowing, run.time, run.values)
        ends = ends_of(windowing, grid)
        for start in range(0, len(ends), 256):
            part = ends[start : start + 256]
            values, valid = cut(windowing, grid, part)
            for place, end in enumerate(grid.time[part].tolist()):
                found[run.asset, name_of(end)] = Window(run.asset, end, values[place].copy(), valid[place].copy())
    return found


# --- the stream ----------------------------------------------------------------------------------------------------


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
        kinds = [(f"edge-sft/v1/+/+/+/+/{kind}", 1) for kind in ("prediction", "state", "metrics")]
        self._client.subscribe(kinds)
        assert ready.wait(10)

    def _take(self, message: Any) -> None:
        body = json.loads(message.payload)
        if message.topic.endswith("/state"):
            self.heard.state = body
        elif message.topic.endswith("/metrics"):
            self.heard.taken = body["counts"].get("batches", 0)
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
        # jump_s: a run of many hours on a clock of its own is no clock set back
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


def tapped(path: Path) -> list[dict[str, Any]]:
    """Read the tap's lines; the one that a kill cut short is left out."""
    lines = path.read_bytes().splitlines()
    return [json.loads(line) for line in lines if line.endswith(b"}")]


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


# --- the comparison ------------------------------------------------------------------------------------------------


@dataclass
class Compared:
    """One line of the table."""

    rows: int
    runs: int
    machines: int
    variant: str
    windows: int = 0
    batches: int = 0
    mean_batch: float = 0.0
    kills: list[str] = field(default_factory=list)
    took_s: float = 0.0
    messages: int = 0
    asked_wrong: int = 0  # windows whose bits are not the offline ones
    missing: int = 0  # of the expected, not heard over the broker
    extra: int = 0  # heard, not expected
    twice: int = 0  # decided twice (the second after a kill), told twice
    twice_apart: float = 0.0  # of these, the largest difference over the scale
    gaps: int = 0  # sequence numbers that never came
    unlike_tap: int = 0  # what the broker told is not what the model said
    batch_differ: int = 0  # Predictions that an equal batch offline does not give bit for bit
    alone: float = 0.0  # largest difference over the scale: one window at a time
    alone_verdicts: int = 0
    predict: float = 0.0  # the same: `edge-sft predict`
    predict_verdicts: int = 0
    predict_missing: int = 0
    undecided: int = 0


def numbers(one: dict[str, Any]) -> dict[str, float]:
    """A Prediction's numbers by name."""
    found = {name: float(one[name]) for name in _NUMBERS if one.get(name) is not None}
    return found | {f"p/{label}": float(share) for label, share in (one.get("probabilities") or {}).items()}


def scales(every: Sequence[dict[str, float]]) -> dict[str, float]:
    """1 for probabilities, else the largest magnitude of the output that a number is of (an interval's, both ends)."""
    largest: dict[str, float] = defaultdict(float)
    for one in every:
        for name, number in one.items():
            largest[name] = max(largest[name], abs(number))
    ends = max(largest.get("low", 0.0), largest.get("high", 0.0))
    known = {name: 1.0 if name.startswith("p/") or name == "confidence" else max(large, 1e-12)
             for name, large in largest.items()}  # fmt: skip
    return known | ({"low": ends, "high": ends} if ends else {})


def apart(one: dict[str, Any], other: dict[str, Any], scale: dict[str, float]) -> float:
    mine, yours = numbers(one), numbers(other)
    if mine.keys() != yours.keys():
        return float("inf")
    return max((abs(mine[name] - yours[name]) / scale[name] for name in mine), default=0.0)


def compare(
    heard: Heard, lines: list[dict[str, Any]], offline: dict[Key, Window], predictor: WindowPredictor, told: Compared
) -> dict[Key, dict[str, Any]]:
    """Fill in what the stream and the offline path say; returns what the stream said of each window."""
    digests = {key: digest(window) for key, window in offline.items()}
    of_tap: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    answered = 0
    for line in lines:
        keys = [(asset, name) for asset, name, _ in line["windows"]]
        told.asked_wrong += sum(digests.get((a, n)) != sha for a, n, sha in line["windows"])
        for key, one in zip(keys, line["said"], strict=True):
            of_tap[key].append(one)
        if all(key in offline for key in keys):
            equal = asked(predictor, [offline[key] for key in keys])
            told.batch_differ += sum(json.dumps(a) != json.dumps(b) for a, b in zip(equal, line["said"], strict=True))
            answered += len(keys)
    told.windows, told.batches = len(offline), len(lines)
    told.mean_batch = answered / max(1, len(lines))
    streamed: dict[Key, dict[str, Any]] = {}
    again: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for key, predictions in heard.found.items():
        mine = [{name: one.get(name) for name in of_tap[key][0]} for one in predictions] if key in of_tap else []
        told.unlike_tap += sum(one not in of_tap[key] for one in mine) + (key not in of_tap)
        told.twice += len(predictions) - 1
        if mine:
            streamed[key] = mine[0]
            again += [(mine[0], one) for one in mine[1:]]
    told.missing, told.extra = len(offline.keys() - heard.found.keys()), len(heard.found.keys() - offline.keys())
    told.gaps = heard.dropped + sum(max(seqs) + 1 - len(seqs) for seqs in heard.seqs.values())
    told.undecided = sum(one["verdict"] == "no_decision" for one in streamed.values())
    scale = scales([numbers(one) for one in streamed.values()])
    told.twice_apart = max((apart(one, other, scale) for one, other in again), default=0.0)
    for key, one in streamed.items():
        if key in offline:
            alone = asked(predictor, [offline[key]])[0]
            told.alone = max(told.alone, apart(one, alone, scale))
            told.alone_verdicts += alone["verdict"] != one["verdict"]
    return streamed


def asked(predictor: WindowPredictor, windows: Sequence[Window]) -> list[dict[str, Any]]:
    now = Captured(datetime.now(timezone.utc), time.monotonic())
    predictions = predictor.decide(windows, stream="main", captured=[now] * len(windows))
    return [json.loads(json.dumps(said(one))) for one in predictions]


def against_predict(
    one: Made, root: Path, folder: Path, runs: Sequence[Run], streamed: dict[Key, dict[str, Any]], told: Compared
) -> None:
    """Let `edge-sft predict` decide about the same files."""
    scale = scales([numbers(found) for found in streamed.values()])
    seen: set[Key] = set()
    for part in rounds(runs):
        out = folder / "predicted.jsonl"
        words = ["predict", str(one.bundle.resolve()), *(str(run.path.resolve()) for run in part), "--json"]
        edge_sft(one, *words, "--out", str(out), "--variant", told.variant, "--root", str(root))
        named = {run.machine: run.asset for run in part}
        for line in out.read_text().splitlines():
            prediction = json.loads(line)
            key = (named[prediction["asset"]], prediction["name"])
            if key in streamed:
                seen.add(key)
                told.predict = max(told.predict, apart(prediction, streamed[key], scale))
                told.predict_verdicts += prediction["verdict"] != streamed[key]["verdict"]
    told.predict_missing = len(streamed.keys() - seen)


# --- conditions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conditions:
    """What the graph's lookup said. ``margin`` is how much nearer the nearest centre was, at least (weighted units)."""

    rows: int
    engines: int
    wrong: dict[str, int]
    margin: float


def conditions(one: Made, slot: Path, windowing: Windowing, runs: Sequence[Run]) -> Conditions | None:
    """Compare every variant's `ArgMin` with numpy's nearest centre, on every grid row; None without a lookup."""
    import onnx
    import onnxruntime
    from safetensors.numpy import load_file

    weights = load_file(one.checkpoint / "model.safetensors")
    name = next((name for name in weights if name.endswith("centres") and weights[name].size), "")
    if not name:
        return None
    prefix = name.removesuffix("centres")
    centres, weight = weights[name].astype(np.float64), weights[prefix + "weight"].astype(np.float64)
    meta = json.loads((one.checkpoint / "checkpoint.json").read_text())
    columns = _lists_of_conditions(meta)
    windows, valids, masks = [], [], []
    for run in runs:
        grid = grid_run(windowing, run.time, run.values)
        ends = np.arange(len(grid) - 1, -1, -windowing.length)[::-1]  # windows side by side: every row once
        values, valid = cut(windowing, grid, ends)
        steps = np.arange(1 - windowing.length, 1) + ends[:, None]
        windows.append(values)
        valids.append(valid)
        masks.append(steps >= 0)
    window, valid, mask = np.concatenate(windows), np.concatenate(valids), np.concatenate(masks)
    points = (window[..., columns].astype(np.float64) * weight)[mask]
    far = ((points[:, None, :] - centres[None] * weight) ** 2).sum(axis=2)
    nearest = far.argmin(axis=1)
    two = np.sqrt(np.sort(far, axis=1)[:, :2])
    wrong: dict[str, int] = {}
    for file in sorted(slot.glob("*.onnx")):
        model = onnx.load(file)
        lookups = [node.output[0] for node in model.graph.node if node.op_type == "ArgMin"]
        model.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.INT64, None) for n in lookups)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        run_ = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run
        wrong[file.stem] = 0
        for start in range(0, len(window), 64):
            part = slice(start, start + 64)
            found = run_(lookups, {"window": window[part], "valid": valid[part]})
            inside = mask[part]
            before = int(mask[:start].sum())
            want = nearest[before : before + int(inside.sum())]
            wrong[file.stem] += sum(int((answer[inside] != want).sum()) for answer in found)
        if not lookups:
            wrong[file.stem] = -1
    return Conditions(int(mask.sum()), len(runs), wrong, float((two[:, 1] - two[:, 0]).min()))


def _lists_of_conditions(meta: Any) -> list[int]:
    """Find the normaliser's ``conditions`` in a checkpoint's description."""
    if isinstance(meta, dict):
        found = meta.get("conditions")
        if isinstance(found, list) and found and all(isinstance(item, int) for item in found):
            return found
        for value in meta.values():
            if inner := _lists_of_conditions(value):
                return inner
    return []


# --- one set -------------------------------------------------------------------------------------------------------


def edge_sft(one: Made, *words: str) -> None:
    command = [sys.executable, "-m", "edge_sft.cli.main", *words]
    done = subprocess.run(
        command, cwd=one.folder, env=environment(one.folder.parent), check=False, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"edge-sft {' '.join(words)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def measure(one: Made, kills: int, most_rows: int) -> tuple[Compared, Conditions | None]:
    from edge_sft.slots.commissioning_file import CommissioningStore
    from edge_sft.slots.proof import PROOF
    from edge_sft.slots.store import SlotStore

    with tempfile.TemporaryDirectory(prefix=f"streamed-{one.name}-") as name:
        folder = Path(name)
        root = folder / "root"
        edge_sft(one, "deploy", str(one.bundle.resolve()), "--to", "local", "--profile", str(one.profile.resolve()),
                 "--root", str(root))  # fmt: skip
        if one.healthy:
            edge_sft(one, "commission", str((one.folder / "healthy").resolve()), "--root", str(root))
        slot = SlotStore(root, "main").current()
        assert slot is not None
        variant = json.loads((slot.path / PROOF).read_text())["chosen"]
        store = CommissioningStore(root, "main", slot.digest)
        with WindowPredictor.open(slot.path, threads=1, commissioning=store) as predictor:
            windowing = predictor.windowing
            runs = unseen_runs(one, most_rows)
            told = Compared(sum(len(run.time) for run in runs), len(runs), len({run.asset for run in runs}), variant)
            offline = offline_windows(windowing, runs)
            found = conditions(one, slot.path, windowing, runs)
            most = 20 if told.rows < 200_000 else 2000
            heard, told.kills, told.took_s, told.messages = stream(
                folder, one.folder.parent, runs, windowing, set(offline), kills, most
            )
            streamed = compare(heard, tapped(folder / "tap.jsonl"), offline, predictor, told)
        against_predict(one, root, folder, runs, streamed, told)
        return told, found


def faults(told: Compared) -> list[str]:
    """What must not be."""
    must_be_none = ("asked_wrong", "missing", "extra", "gaps", "unlike_tap", "batch_differ")
    found = [f"{name}: {getattr(told, name)}" for name in (*must_be_none, "predict_missing") if getattr(told, name)]
    return found + [
        f"{name}: {getattr(told, name):.1e}"
        for name in ("alone", "predict", "twice_apart")
        if getattr(told, name) > 1e-4
    ]


def report(found: dict[str, tuple[Compared, Conditions | None]], began: str) -> str:
    lines = [
        "# Streamed = offline\n",
        f"`python benchmarks/streamed.py {' '.join(sys.argv[1:])}`",
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {began}.\n",
        *_head(),
        _TITLES,
        "|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, (told, _) in found.items():
        lines.append(
            f"| {name} | {told.runs} | {told.rows:,} | {told.windows:,} | {told.variant} | {told.batches:,} "
            f"({told.mean_batch:.1f}) | {len(told.kills)} | {told.asked_wrong} | {told.missing} "
            f"| {told.batch_differ} | {told.alone:.1e} | {told.predict:.1e} "
            f"| {told.alone_verdicts} / {told.predict_verdicts} |"
        )
    lines += ["", "Kills and what the broker told:", ""]
    for name, (told, _) in found.items():
        lines.append(
            f"- {name}: {told.messages:,} messages in {told.took_s:.0f} s; killed {'; '.join(told.kills) or 'never'}. "
            f"{told.twice} decisions came twice (max diff / scale {told.twice_apart:.1e}), {told.gaps} "
            f"sequence numbers missing, {told.unlike_tap} told otherwise than the model said, {told.extra} not "
            f"expected, {told.undecided} without a decision."
        )
    lines += ["", "| set | engines | grid rows | wrong conditions by variant | nearest centre nearer by at least |",
              "|---|---:|---:|---|---:|"]  # fmt: skip
    for name, (_, lookup) in found.items():
        if lookup is not None:
            wrong = ", ".join(f"{variant} {'no lookup' if n < 0 else n}" for variant, n in lookup.wrong.items())
            lines.append(f"| {name} | {lookup.engines} | {lookup.rows:,} | {wrong} | {lookup.margin:.1e} |")
    bad = {name: faults(told) for name, (told, _) in found.items() if faults(told)}
    lines += ["", f"Not as it must be: {bad or 'nothing'}."]
    return "\n".join(lines) + "\n"


def _head() -> list[str]:
    return [
        "The real agent over a real Mosquitto, killed -9 and started again while rows come; offline is `grid_run` and",
        "`cut` over whole files with `WindowPredictor`, and `edge-sft predict`. Rows are of unseen runs, nothing is",
        "scored. *Equal batch* repeats the agent's own batches; differences are over the output's scale (1 for",
        "probabilities). A decision whose journal entry was not yet noted when the agent died is made and told again,",
        "in another batch.\n",
    ]


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--work", type=Path, required=True, help="folder of sensor_bundles.py")
    given.add_argument("--only", default="", help="sets, with commas")
    given.add_argument("--kills", type=int, default=4)
    given.add_argument("--most-rows", type=int, default=2_500_000, help="whole runs are taken until there are so many")
    given.add_argument("--out", type=Path, default=RESULT)
    asked_ = given.parse_args()
    began = machine()
    wanted = asked_.only.split(",") if asked_.only else list(SETS)
    found: dict[str, tuple[Compared, Conditions | None]] = {}
    for one in made(asked_.work):
        if one.name in wanted:
            print(f"== {one.name}", flush=True)
            found[one.name] = measure(one, asked_.kills, asked_.most_rows)
            print(found[one.name], flush=True)
    text = report(found, began)
    asked_.out.write_text(text, encoding="utf-8")
    print(text)
    if any(faults(told) for told, _ in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()

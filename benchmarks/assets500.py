"""500 machines at 10 rows a second of 20 channels in one agent: CPU, memory and latency, beside the bare model calls.

    python benchmarks/assets500.py [--seconds 1200] [--assets 500] [--hz 10] [--channels 20] [--per-message 1]
                                   [--qos 1] [--out results/assets500.md]

A sender (own process) publishes JSON rows to a real Mosquitto; the agent (own process, the real one: raw ring on disk,
journal, predictions back to the broker) takes them; a listener (own process) counts decisions and compares clocks.
Then the same model calls, with the agent's mean batch, in a bare loop at the same rate: what no agent can go below.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from agent_broker import machine, mosquitto

LENGTH, HIDDEN, LAYERS = 64, 32, 4
# As in docker/mosquitto/mosquitto.conf: with Mosquitto's own 20, a busy machine's answers hold the rows up.
BROKER = "max_inflight_messages 1000\n"


def network(channels: int) -> bytes:
    """A dilated convolutional net as small as those that are trained here (window 64): value and interval."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    constants: dict[str, np.ndarray] = {"time": np.array([2]), "one": np.array([1], np.int64)}
    nodes = [
        helper.make_node("Concat", ["window", "valid"], ["both"], axis=2),
        helper.make_node("Transpose", ["both"], ["x0"], perm=[0, 2, 1]),
    ]
    width = 2 * channels
    for layer in range(LAYERS):
        constants[f"w{layer}"] = rng.normal(0, (3 * width) ** -0.5, (HIDDEN, width, 3)).astype(np.float32)
        reach = 2**layer
        nodes.append(
            helper.make_node(
                "Conv",
                [f"x{layer}", f"w{layer}"],
                [f"c{layer}"],
                pads=[reach, reach],
                dilations=[reach],
                kernel_shape=[3],
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"x{layer + 1}"]))
        width = HIDDEN
    constants["head"] = rng.normal(0, 0.1, (HIDDEN, 1)).astype(np.float32)
    constants["spread"] = np.array([[-1.0, 1.0]], np.float32)
    nodes += [
        helper.make_node("ReduceMean", [f"x{LAYERS}", "time"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "head"], ["column"]),
        helper.make_node("Squeeze", ["column", "one"], ["value"]),
        helper.make_node("Add", ["column", "spread"], ["quantiles"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tcn",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", LENGTH, channels]) for n in ("window", "valid")],
        [
            helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("quantiles", TensorProto.FLOAT, ["N", 2]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def install(root: Path, channels: int, hz: float, assets: int) -> None:
    """Put the net into the slot, signed and verified; the proof states what this benchmark runs with."""
    from edge_sft.bundle.keys import generate, load_private, load_public
    from edge_sft.bundle.manifest import Draft, VariantEntry
    from edge_sft.bundle.reading import open_verified
    from edge_sft.bundle.writing import write_bundle
    from edge_sft.policy import AlarmRule, RegressionPolicy
    from edge_sft.preprocess import Channel, Windowing
    from edge_sft.profile import Budgets, DeviceProfile
    from edge_sft.slots.proof import PROOF, Proof, VariantProof
    from edge_sft.slots.store import SlotStore
    from edge_sft.task import window_regression

    content = network(channels)
    rng = np.random.default_rng(1)
    inputs = {"window": rng.normal(size=(4, LENGTH, channels)).astype(np.float32)}
    inputs["valid"] = np.ones_like(inputs["window"])
    found = session(content).run(None, inputs)
    golden = {f"in/{n}": a for n, a in inputs.items()}
    golden |= {"out/fp32/value": found[0], "out/fp32/quantiles": found[1], "label": np.zeros(4, np.int64)}
    archive = io.BytesIO()
    np.savez(archive, **golden)
    pair = generate(root / "keys", "bench")
    names = [f"c{index}" for index in range(channels)]
    draft = Draft(
        name="tcn",
        version="1.0.0",
        created_at="2026-01-01T00:00:00.000Z",
        made_by="benchmarks/assets500.py",
        task=window_regression(LENGTH, channels, (0.05, 0.95), "hours"),
        preprocess=Windowing(
            channels=tuple(Channel(name=name, stuck_s=60.0) for name in names),
            period_s=1 / hz,
            length=LENGTH,
            hop=max(1, round(hz)),
            hold_s=2 / hz,
            min_valid=0.3,
        ),
        variants=(VariantEntry(variant="fp32", file="fp32.onnx", golden_tolerance=1e-3),),
        dataset_fingerprint="0" * 64,
        weights_sha256=hashlib.sha256(content).hexdigest(),
    )
    policy = RegressionPolicy(act_below=-1e9, judge="value", alarm=AlarmRule(stale_s=10.0))
    files: dict[str, bytes | Path] = {
        "fp32.onnx": content,
        "golden.npz": archive.getvalue(),
        "policy.json": policy.model_dump_json().encode(),
        "recipe.toml": b"# none\n",
    }
    bundle = open_verified(
        write_bundle(root / "bundles", draft, files, load_private(pair.private)), [load_public(pair.public)]
    )
    profile = DeviceProfile(
        name="bench", title="Bench", variants=("fp32",), threads=1, budgets=Budgets(latency_p95_ms=1e4, memory_mb=1e4)
    )
    proof = Proof(
        digest=bundle.digest,
        name="tcn",
        version="1.0.0",
        proved_at="2026-01-01T00:00:00.000Z",
        made_by="benchmarks/assets500.py",
        profile=profile,
        machine="this one",
        engine="onnxruntime",
        provider="CPUExecutionProvider",
        library_version="-",
        threads=1,
        frame=f"{LENGTH}x{channels}",
        policy_origin="bundle",
        policy_version=policy.version,
        variants=(VariantProof(variant="fp32", passed=True),),
        chosen="fp32",
    )
    store = SlotStore(root, "main")
    with store.lock(), store.staging() as folder:
        bundle.extract_to(folder)
        (folder / PROOF).write_text(proof.model_dump_json())
        store.commit(folder)


def session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def send(port: int, assets: int, hz: float, channels: int, per_message: int, qos: int, seconds: float) -> None:
    """Own process: rows of all machines, spread evenly over each period; says at the end how late it ran."""
    import paho.mqtt.client as mqtt

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.max_queued_messages_set(0)
    client.max_inflight_messages_set(2000)
    acknowledged = [0]
    client.on_publish = lambda *_: acknowledged.__setitem__(0, acknowledged[0] + 1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    rng = np.random.default_rng(0)
    levels = rng.normal(50, 10, (assets, channels))
    bodies = [
        [",".join(f'"c{c}":{levels[a, c] + rng.normal():.4f}' for c in range(channels)) for _ in range(64)]
        for a in range(assets)
    ]
    period = per_message / hz
    gap = period / assets
    began = time.time()
    count, worst, behind = 0, 0.0, 0
    while time.time() - began < seconds:
        due = began + count * gap
        late = time.time() - due
        worst = max(worst, late)
        if late < 0:
            time.sleep(min(-late, 0.005))
            continue
        asset, turn = count % assets, count // assets
        rows = []
        for index in range(per_message):
            when = due - (per_message - 1 - index) / hz
            rows.append(f'{{"time":{when:.4f},{bodies[asset][(turn * per_message + index) % 64]}}}')
        body = rows[0] if per_message == 1 else f"[{','.join(rows)}]"
        client.publish(f"plant/m{asset:04d}/sensors", body, qos)
        count += 1
        behind = max(behind, count - acknowledged[0])
    time.sleep(2)
    client.disconnect()
    client.loop_stop()
    said = {"messages": count, "rows": count * per_message, "worst_late_s": round(worst, 3), "behind": behind}
    print(json.dumps(said), flush=True)


def hear(port: int, seconds: float, warm: float, hz: float) -> None:
    """Own process: counts decisions; latencies as the agent says them and against the rows' own times."""
    import paho.mqtt.client as mqtt

    said: list[float] = []
    apart: list[float] = []
    seqs: list[int] = []
    metrics: list[dict[str, Any]] = []
    verdicts: dict[str, int] = {}
    began = time.time()

    def take(_c: Any, _u: Any, message: Any) -> None:
        now = time.time()
        body = json.loads(message.payload)
        if message.topic.endswith("/metrics"):
            metrics.append(body)
            return
        seqs.append(body["seq"])
        one = body["prediction"]
        verdicts[one["verdict"]] = verdicts.get(one["verdict"], 0) + 1
        if now - began > warm:
            said.append(one["latency_ms"])
            apart.append(1000 * (now - float(one["name"])))

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_message = take
    client.on_connect = lambda c, *_: [
        c.subscribe(f"edge-sft/v1/+/+/+/+/{kind}", 1) for kind in ("prediction", "metrics")
    ]
    client.connect("127.0.0.1", port)
    client.loop_start()
    print("ready", flush=True)
    time.sleep(seconds)
    client.disconnect()
    client.loop_stop()
    out = {
        "decisions": len(seqs),
        "missing": (max(seqs) + 1 - len(set(seqs))) if seqs else 0,
        "verdicts": verdicts,
        "said": [float(q) for q in np.percentile(said, [50, 95, 99, 100])] if said else [],
        "apart": [float(q) for q in np.percentile(apart, [50, 95, 99, 100])] if apart else [],
        "row_after_window_ms": 1000 / hz,
        "metrics": metrics[-1] if metrics else {},
        "agent_p99": [m["latency_ms"]["p99"] for m in metrics if m["latency_ms"]["p99"] is not None],
    }
    print(json.dumps(out), flush=True)


AGENT = """
import os, signal, sys, threading
from pathlib import Path
from edge_sft.runtime.agent import Agent
from edge_sft.runtime.config import AgentConfig
config = AgentConfig.model_validate({{
    "agent": {{"root": Path({root!r})}}, "mqtt": {{"port": {port}}},
    "pipeline": [{{"source": {{"kind": "mqtt", "topics": ["plant/+/sensors"], "qos": {qos}, "time_format": "number"}},
                  "assets": {{"late_s": {late}}}, "threads": 1}}],
}})
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
print("ready", flush=True)
Agent(config).run(stop)
"""


def bare(content: bytes, channels: int, batch: int, per_s: float, seconds: float) -> tuple[float, float]:
    """Return (CPU share of one core, milliseconds a call) of the model calls alone, at the agent's rate and batch."""
    run = session(content)
    rng = np.random.default_rng(2)
    window = rng.normal(size=(batch, LENGTH, channels)).astype(np.float32)
    inputs = {"window": window, "valid": np.ones_like(window)}
    run.run(None, inputs)
    calls, spent = 0, 0.0
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        due = began + calls * batch / per_s
        if due > time.perf_counter():
            time.sleep(max(0.0, due - time.perf_counter()))
        start = time.perf_counter()
        run.run(None, inputs)
        spent += time.perf_counter() - start
        calls += 1
    wall = time.perf_counter() - began
    return (time.process_time() - cpu) / wall, 1000 * spent / calls


def watch(process: subprocess.Popen[str], seconds: float, warm: float) -> dict[str, Any]:
    """CPU share and memory of the agent after the warm-up: slope in MiB an hour by least squares."""
    import psutil

    agent = psutil.Process(process.pid)
    time.sleep(warm)
    began, first = time.time(), agent.cpu_times()
    times: list[float] = []
    memory: list[float] = []
    while time.time() - began < seconds:
        times.append(time.time() - began)
        memory.append(agent.memory_info().rss / 2**20)
        time.sleep(min(5.0, seconds / 10))
    last, wall = agent.cpu_times(), time.time() - began
    slope = np.polyfit(times, memory, 1)[0] * 3600 if len(times) > 2 else float("nan")
    return {
        "cpu": (last.user + last.system - first.user - first.system) / wall,
        "system": (last.system - first.system) / wall,
        "first_mb": memory[0],
        "last_mb": memory[-1],
        "most_mb": max(memory),
        "slope_mb_h": float(slope),
        "watched_s": wall,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=1200)
    arguments.add_argument("--warm", type=float, default=60, help="seconds before anything is measured")
    arguments.add_argument("--assets", type=int, default=500)
    arguments.add_argument("--hz", type=float, default=10)
    arguments.add_argument("--channels", type=int, default=20)
    arguments.add_argument("--per-message", type=int, default=1, help="rows a message")
    arguments.add_argument("--qos", type=int, default=1, choices=(0, 1))
    arguments.add_argument("--late", type=float, default=0.0, help="seconds that rows may come late")
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    started = machine()
    me = [sys.executable, __file__]
    with tempfile.TemporaryDirectory() as name, mosquitto(Path(name), BROKER) as port:
        root = Path(name) / "root"
        install(root, given.channels, given.hz, given.assets)
        total = given.warm + given.seconds
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        script = AGENT.format(root=str(root), port=port, qos=given.qos, late=given.late)
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "env": environment}
        agent = subprocess.Popen([sys.executable, "-c", script], **pipes)
        listener = subprocess.Popen([*me, "--hear", f"{port},{total + 8},{given.warm + 3},{given.hz}"], **pipes)
        try:
            for process in (agent, listener):
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            time.sleep(3)
            options = (port, given.assets, given.hz, given.channels, given.per_message, given.qos, total)
            sender = subprocess.Popen([*me, "--send", ",".join(str(one) for one in options)], **pipes)
            seen = watch(agent, given.seconds - 2, given.warm)
            sent = json.loads(sender.communicate()[0])
            heard = json.loads(listener.communicate()[0])
        finally:
            agent.terminate()
            agent.wait(30)
        written = sum(path.stat().st_size for path in (root / "pipelines/main/rows").iterdir()) / 2**20
    counts = heard["metrics"].get("counts", {})
    batch = max(1, round(counts.get("decisions", 1) / max(1, counts.get("batches", 1))))
    per_s = given.assets * given.hz / max(1, round(given.hz))
    share, call_ms = bare(network(given.channels), given.channels, batch, per_s, min(30.0, given.seconds))
    text = report(given, started, seen, sent, heard, batch, per_s, share, call_ms, written)
    print(text)
    if given.out:
        given.out.write_text(text, encoding="utf-8")


def report(
    given: argparse.Namespace,
    started: str,
    seen: dict[str, Any],
    sent: dict[str, Any],
    heard: dict[str, Any],
    batch: int,
    per_s: float,
    share: float,
    call_ms: float,
    written: float,
) -> str:
    rows = given.assets * given.hz
    said, apart = heard["said"] or [float("nan")] * 4, heard["apart"] or [float("nan")] * 4
    expected = given.assets * max(0.0, (sent["rows"] / given.assets) - 0.3 * LENGTH) / max(1, round(given.hz))
    return f"""# {given.assets} assets in one agent

`python benchmarks/assets500.py {" ".join(sys.argv[1:])}`
{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {started}. {given.assets} assets × {given.hz:g} rows/s
× {given.channels} channels = {rows:g} rows/s, {given.per_message} a message, QoS {given.qos}; windows of {LENGTH}, one
decision an asset and second; dilated net with {LAYERS} layers of {HIDDEN}, one thread. Measured for
{seen["watched_s"]:.0f} s after {given.warm:g} s.

| | agent | bare model calls |
|---|---|---|
| CPU, share of one core | {100 * seen["cpu"]:.0f} % (of it system {100 * seen["system"]:.0f} %) | {100 * share:.1f} % |
| a model call | | {call_ms:.2f} ms for {batch} windows (the agent's mean batch) |
| memory | {seen["first_mb"]:.0f} → {seen["last_mb"]:.0f} MiB, most {seen["most_mb"]:.0f} | |
| memory slope | {seen["slope_mb_h"]:+.1f} MiB an hour | |
| row received → decided: p50 / p95 / p99 / most | {said[0]:.1f} / {said[1]:.1f} / {said[2]:.1f} / {said[3]:.0f} ms | |
| end of window → heard by a subscriber: p50 / p95 / p99 | {apart[0]:.0f} / {apart[1]:.0f} / {apart[2]:.0f} ms | |

The end of a window is its last row's time; the next row ({heard["row_after_window_ms"]:.0f} ms later) completes it.
Sent {sent["rows"]} rows in {sent["messages"]} messages (sender at most {sent["worst_late_s"]} s late,
the broker at most {sent["behind"]} messages behind it); heard
{heard["decisions"]} decisions (about {expected:.0f} expected), {heard["missing"]} sequence numbers missing, verdicts
{heard["verdicts"]}. Raw ring and state on disk at the end: {written:.0f} MiB.
"""


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in ("--send", "--hear"):
        numbers = [float(one) for one in sys.argv[2].split(",")]
        if sys.argv[1] == "--hear":
            hear(int(numbers[0]), numbers[1], numbers[2], numbers[3])
        else:
            send(
                int(numbers[0]),
                int(numbers[1]),
                numbers[2],
                int(numbers[3]),
                int(numbers[4]),
                int(numbers[5]),
                numbers[6],
            )
    else:
        main()

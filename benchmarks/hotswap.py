"""Hot swap under load: two pipelines at 30 frames a second, models of different input size and backbone.

    python benchmarks/hotswap.py [--swaps 50] [--failing 10] [--rate 30] [--out results/x.md]

Deploys run in a process of their own, as in a plant; the agent picks each up between two samples. Some deploys are
made to fail their proof (NaN outputs, other numbers than when made, too slow for the profile): nothing may change.
Counted: frames the sources gave, decisions a subscriber on a real Mosquitto received, their numbers, the gaps
between decisions.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from agent_broker import machine, mosquitto
from agent_models import make_bundle, small_graph
from agent_pictures import real_pictures

PIPELINES = ("left", "right")
TIGHT = """schema_version = 1
name = "x86-cpu"
title = "too little time"
engine = "onnxruntime"
variants = ["fp32"]
threads = 1
[budgets]
latency_p95_ms = 0.01
memory_mb = 600.0
"""


def deployer() -> None:
    """Own process: one deploy per line of input, one line of outcome per deploy."""
    from edge_sft.bundle.keys import trusted
    from edge_sft.deploy.local import deploy
    from edge_sft.errors import EdgeSftError
    from edge_sft.profile import load

    for line in sys.stdin:
        bundle, root, pipeline, profile, keys = json.loads(line)
        began = time.monotonic()
        try:
            proof = deploy(
                Path(bundle), Path(root), pipeline=pipeline, profile=load(profile), trusted_keys=trusted(Path(keys))
            )
            said = f"deployed {proof.name} {proof.version}"
        except EdgeSftError as error:
            said = f"refused {error}"
        print(json.dumps([said, time.monotonic() - began]), flush=True)


class Deployer:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--deployer"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, bundle: Path, root: Path, pipeline: str, profile: str, keys: Path) -> tuple[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(bundle), str(root), pipeline, profile, str(keys)]) + "\n")
        self._process.stdin.flush()
        said, seconds = json.loads(self._process.stdout.readline())
        return said, seconds

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Frames:
    """640×480 frames for ever, counted."""

    def __init__(self) -> None:
        self.given = 0
        self._pictures = list(real_pictures(16, 640, 480))

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.given += 1
            yield self._pictures[self.given % len(self._pictures)]


class Receiver:
    """A plain subscriber: what really arrived."""

    def __init__(self, port: int) -> None:
        import paho.mqtt.client as mqtt

        from edge_sft.prediction import Envelope

        self.seen: dict[str, dict[int, str]] = {name: {} for name in PIPELINES}
        self.verdicts: dict[str, int] = {}
        self.dropped = self.doubles = 0

        def heard(_c: Any, _u: Any, message: Any) -> None:
            one = Envelope.from_json(message.payload)
            if one.dropped is not None:
                self.dropped += one.dropped.last_seq - one.dropped.first_seq + 1
            if one.prediction is not None:
                self.doubles += one.seq in self.seen[one.stream]
                self.seen[one.stream][one.seq] = one.prediction.model.version if one.prediction.model else "none"
                self.verdicts[one.prediction.verdict] = self.verdicts.get(one.prediction.verdict, 0) + 1

        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.on_message = heard
        self.client.on_connect = lambda c, *_: c.subscribe("edge-sft/v1/+/+/+/+/prediction", 1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()


def bundles(scratch: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Four good ones of two backbones and three sizes; three kinds that fail their proof."""
    keys = scratch / "keys"
    shapes = [(96, (16, 32, 64), False), (160, (16, 48, 96), True), (128, (24, 48, 64), True), (64, (16, 32), False)]
    good = []
    for number, (size, widths, depthwise) in enumerate(shapes):
        content = small_graph(size, widths, depthwise=depthwise, seed=number)
        name = "separable" if depthwise else "plain"
        good.append(make_bundle(scratch, keys, {"fp32": content}, name=name, version=f"1.{number}.0", size=size))
    nan = small_graph(96, (16, 32), depthwise=False, seed=9, nan=True)
    other = small_graph(96, (16, 32), depthwise=False, seed=10)
    wrong = np.tile(np.array([[0.123, 0.877]], np.float32), (8, 1))
    (scratch / "tight.toml").write_text(TIGHT)
    honest = np.full((8, 2), 0.5, np.float32)
    bad = [
        (make_bundle(scratch, keys, {"fp32": nan}, name="nan", version="1.0.0", size=96, expected=honest), "x86-cpu"),
        (
            make_bundle(scratch, keys, {"fp32": other}, name="wrong", version="1.0.0", size=96, expected=wrong),
            "x86-cpu",
        ),
        (good[0], str(scratch / "tight.toml")),
    ]
    return good, bad


def run(options: Any, scratch: Path) -> list[str]:
    from edge_sft.runtime.agent import Agent
    from edge_sft.runtime.config import AgentConfig
    from edge_sft.runtime.sources.iterator import IteratorSource

    good, bad = bundles(scratch)
    root, deploy = scratch / "root", Deployer()
    for pipeline in PIPELINES:
        deploy(good[0], root, pipeline, "x86-cpu", scratch / "keys")
    frames = {name: Frames() for name in PIPELINES}
    sections = [{"name": name, "source": {"kind": "files", "path": "."}} for name in PIPELINES]
    with mosquitto(scratch) as port:
        config = AgentConfig.model_validate({"agent": {"root": root}, "mqtt": {"port": port}, "pipeline": sections})
        sources = {name: IteratorSource(frames[name], name, rate=options.rate) for name in PIPELINES}
        agent = Agent(config, sources=sources)
        decided: dict[str, list[float]] = {name: [] for name in PIPELINES}
        for pipeline in agent.pipelines:
            sink, times = pipeline._sink, decided[pipeline.section.name]
            pipeline._sink = lambda one, sink=sink, times=times: (times.append(time.monotonic()), sink(one))[1]
        receiver, stop = Receiver(port), threading.Event()
        runner = threading.Thread(target=agent.run, args=(stop,))
        runner.start()
        time.sleep(2)
        outcomes = swap_all(options, agent, deploy, good, bad, root, scratch)
        time.sleep(1)
        stop.set()
        runner.join()
        settle_end = time.monotonic() + 10
        total = {name: agent.pipelines[index].meter.counts for index, name in enumerate(PIPELINES)}
        while time.monotonic() < settle_end and any(
            len(receiver.seen[name]) < total[name]["decisions"] for name in PIPELINES
        ):
            time.sleep(0.05)
        deploy.close()
    return report(options, frames, receiver, total, decided, outcomes)


def swap_all(
    options: Any, agent: Any, deploy: Deployer, good: list[Path], bad: list[tuple[Path, str]], root: Path, scratch: Path
) -> dict[str, Any]:
    """Interleave good and failing deploys over both pipelines; wait until each good one serves."""
    plan = ["good"] * options.swaps
    for number in range(options.failing):
        plan.insert((number + 1) * (len(plan) // (options.failing + 1)), "bad")
    outcome: dict[str, Any] = {"swapped": 0, "refused": [], "unchanged": 0, "deploy_s": [], "pickup_s": []}
    turn, failed = dict.fromkeys(PIPELINES, 0), 0
    for step, what in enumerate(plan):
        pipeline = agent.pipelines[step % 2]
        name = pipeline.section.name
        if what == "bad":
            before = pipeline.post.crew
            bundle, profile = bad[failed % len(bad)]
            # Exactly the serving bundle would be "already deployed": the slow one must be another.
            if bundle == good[0] and before.model.version == "1.0.0":
                bundle = good[1]
            said, _ = deploy(bundle, root, name, profile, scratch / "keys")
            failed += 1
            time.sleep(0.5)
            outcome["refused"].append(said)
            outcome["unchanged"] += said.startswith("refused") and pipeline.post.crew is before
            continue
        turn[name] += 1
        said, seconds = deploy(good[turn[name] % len(good)], root, name, "x86-cpu", scratch / "keys")
        began, generation = time.monotonic(), pipeline._swapper._loader.generation()
        while pipeline.post.crew.generation != generation and time.monotonic() - began < 20:
            time.sleep(0.005)
        outcome["pickup_s"].append(time.monotonic() - began)
        outcome["deploy_s"].append(seconds)
        outcome["swapped"] += said.startswith("deployed") and pipeline.post.crew.generation == generation
        print(f"{step + 1}/{len(plan)} {name}: {said}", file=sys.stderr, flush=True)
    return outcome


def report(
    options: Any, frames: Any, receiver: Receiver, total: Any, decided: dict[str, list[float]], outcome: dict[str, Any]
) -> list[str]:
    lines = [
        "| pipeline | frames in | decisions | received over MQTT | dropped | missing | gaps p50 / p99 / max ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in PIPELINES:
        gaps = np.diff(np.array(decided[name])) * 1000
        seen = receiver.seen[name]
        missing = (max(seen) + 1 - len(seen)) if seen else 0
        made, dropped = total[name]["decisions"], total[name].get("dropped", 0)
        shown = f"{np.percentile(gaps, 50):.1f} / {np.percentile(gaps, 99):.1f} / {gaps.max():.1f}"
        lines.append(f"| {name} | {frames[name].given} | {made} | {len(seen)} | {dropped} | {missing} | {shown} |")
    given = sum(one.given for one in frames.values())
    made = sum(one["decisions"] for one in total.values())
    models = sorted({version for seen in receiver.seen.values() for version in seen.values()})
    kinds = sorted({said.split(":", 1)[1][:110].strip() for said in outcome["refused"] if ":" in said})
    lines += [
        "",
        (
            f"Swaps asked {options.swaps}, taken up {outcome['swapped']}; deploys made to fail {options.failing}, "
            f"refused with the old model still serving {outcome['unchanged']}. "
            f"**Frames in − decisions out = {given - made}.**"
        ),
        (
            f"Deploy (verify, install, prove): median {np.median(outcome['deploy_s']):.2f} s; taken up by the agent "
            f"after median {np.median(outcome['pickup_s']):.2f} s, most {max(outcome['pickup_s']):.2f} s."
        ),
        f"Verdicts: {receiver.verdicts}; model versions seen: {', '.join(models)}; received twice: {receiver.doubles}.",
        "",
        "Refusals:",
        *(f"- {kind}" for kind in kinds),
    ]
    return lines


def main() -> None:
    if "--deployer" in sys.argv:
        deployer()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--failing", type=int, default=10)
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    head = [f"# Hot swap, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC", ""]
    head += [f"Command: `python {' '.join(sys.argv)}`  ", f"Machine: {machine()}", ""]
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        lines = head + run(options, Path(scratch)) + ["", f"Took {time.monotonic() - began:.0f} s."]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()

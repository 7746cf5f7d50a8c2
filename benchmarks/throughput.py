"""Agent throughput against a bare `session.run` loop, and the latency from frame to PUBACK.

    python benchmarks/throughput.py [--pictures 2000] [--rounds 3] [--threads 1 2] [--root DIR] [--out results/x.md]

The bare loop infers tensors that were decoded and resized beforehand. The agent reads the same JPEGs from disk,
decodes, resizes, infers, decides, journals (fsync) and publishes to a local Mosquitto, until the last PUBACK.
Equal threads: the same number of inference threads; with more than one, the agent uses as many 1-thread workers.
Rounds are interleaved, bare - agent - bare - agent …, in one process; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from agent_broker import machine, mosquitto
from agent_models import lite0, make_bundle
from agent_pictures import write_jpegs

from edge_sft.bundle.keys import trusted
from edge_sft.deploy.local import deploy
from edge_sft.profile import load as load_profile
from edge_sft.runtime.agent import Agent
from edge_sft.runtime.config import AgentConfig
from edge_sft.runtime.sources.files import PictureFiles
from edge_sft.slots.predictor import Predictor
from edge_sft.slots.store import SlotStore


class Timed(PictureFiles):
    """Remembers when the first picture was asked for."""

    began_s = began_cpu_s = 0.0

    def read(self, timeout_s: float) -> Any:
        if not self.began_s:
            self.began_s, self.began_cpu_s = time.monotonic(), time.process_time()
        return super().read(timeout_s)


def bare(model: Path, tensors: np.ndarray, threads: int) -> tuple[float, float]:
    """Return (pictures a second, CPU ms a picture)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    session.run(None, {name: tensors[:1]})
    began, cpu = time.monotonic(), time.process_time()
    for index in range(len(tensors)):
        session.run(None, {name: tensors[index : index + 1]})
    return len(tensors) / (time.monotonic() - began), (time.process_time() - cpu) * 1000 / len(tensors)


def make_agent(root: Path, port: int, source: Any, threads: int) -> Agent:
    section = {"source": {"kind": "files", "path": "."}, "threads": threads, "workers": threads}
    agent = {"root": root, "device": f"bench{threads}"}
    config = AgentConfig.model_validate({"agent": agent, "mqtt": {"port": port}, "pipeline": [section]})
    return Agent(config, sources={"main": source})


def through_agent(root: Path, port: int, paths: list[Path], threads: int) -> tuple[float, float]:
    """Return (pictures a second from the first read to the last PUBACK, CPU ms a picture)."""
    source = Timed(paths, "main", loop=False, rate=None)
    agent = make_agent(root, port, source, threads)
    stop = threading.Event()
    runner = threading.Thread(target=agent.run, args=(stop,), daemon=True)
    runner.start()
    while agent.publisher.stats.answered < len(paths):
        time.sleep(0.005)
    seconds, cpu = time.monotonic() - source.began_s, time.process_time() - source.began_cpu_s
    stop.set()
    runner.join()
    return len(paths) / seconds, cpu * 1000 / len(paths)


def latencies(root: Path, port: int, paths: list[Path], rate: float) -> list[float]:
    """Frame read → PUBACK in ms, paced."""
    source = PictureFiles(paths, "main", loop=False, rate=rate)
    agent = make_agent(root, port, source, 1)
    captured: dict[int, float] = {}
    found: list[float] = []
    order = [0]
    journal_append = agent.pipelines[0]._deliver

    def deliver(item: Any) -> None:
        captured[order[0]] = item[1].captured_monotonic_s
        order[0] += 1
        journal_append(item)

    agent.pipelines[0]._order._forward = deliver
    first_seq: list[int] = []
    send = agent.link.publish

    def publish(topic: str, payload: Any, qos: int = 1, retain: bool = False, *, done: Any = None) -> bool:
        if done is None:
            return send(topic, payload, qos, retain)
        from edge_sft.prediction import Envelope

        seq = Envelope.from_json(payload).seq
        first_seq.append(seq)

        def answered(accepted: bool) -> None:
            found.append((time.monotonic() - captured[seq - first_seq[0]]) * 1000)
            done(accepted)

        return send(topic, payload, qos, retain, done=answered)

    agent.link.publish = publish  # type: ignore[method-assign]
    stop = threading.Event()
    runner = threading.Thread(target=agent.run, args=(stop,), daemon=True)
    runner.start()
    while len(found) < len(paths):
        time.sleep(0.02)
    stop.set()
    runner.join()
    return found[len(found) // 10 :]  # the first ones fall into connecting


def shares(predictor: Predictor, paths: list[Path]) -> dict[str, float]:
    """Median ms of reading, decoding (at the scale that serving uses), resizing and inference, one after the other."""
    from edge_sft.preprocess import images
    from edge_sft.preprocess.jpeg import jpeg_header
    from edge_sft.runtime.sources.picture import read_sample

    spec = predictor._preprocess
    spent: dict[str, list[float]] = {"read": [], "decode": [], "resize": [], "infer": []}
    for path in paths[:200]:
        a = time.perf_counter()
        sample = read_sample(path, "main")
        b = time.perf_counter()
        header = jpeg_header(sample.data.content)
        frame = images.decode_image(sample.data.content, source="x", scale=images._decoding_scale(header, spec))
        c = time.perf_counter()
        tensor = images.image_tensor(frame, spec)[None]
        d = time.perf_counter()
        predictor.infer(tensor, sample)
        e = time.perf_counter()
        for name, value in (("read", b - a), ("decode", c - b), ("resize", d - c), ("infer", e - d)):
            spent[name].append(value * 1000)
    return {name: statistics.median(values) for name, values in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--root", type=Path, help="a deployed device root; else Lite0 at 224 is made and deployed")
    parser.add_argument("--rate", type=float, default=30.0, help="frames a second for the latency run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [f"# Agent throughput and latency, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC", ""]
    lines += [f"Command: `python {' '.join(sys.argv)}`  ", f"Machine: {machine()}", ""]
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        root = options.root or prepare(scratch)
        paths = write_jpegs(scratch / "jpegs", options.pictures, 640, 480)
        lines += measure(root, paths, options, scratch)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


def prepare(scratch: Path) -> Path:
    bundle = make_bundle(scratch, scratch / "keys", lite0(scratch / "lite0"), name="lite0", version="1.0.0", size=224)
    root = scratch / "root"
    deploy(bundle, root, profile=load_profile("x86-cpu"), trusted_keys=trusted(scratch / "keys"))
    return root


def measure(root: Path, paths: list[Path], options: Any, scratch: Path) -> list[str]:
    from edge_sft.runtime.sources.picture import read_sample
    from edge_sft.slots import proof as proofs
    from edge_sft.slots.store import read_manifest

    slot = SlotStore(root, "main").verified()
    proof, manifest = proofs.load(slot.path), read_manifest(slot.path)
    model = slot.path / next(entry.file for entry in manifest.variants if entry.variant == proof.chosen)
    with Predictor.open(slot.path, threads=1) as predictor:
        spent = shares(predictor, paths)
        tensors = np.concatenate([predictor.prepare(read_sample(path, "main")) for path in paths])
    total = sum(spent.values())
    size_kb = statistics.mean(path.stat().st_size for path in paths) / 1000
    about = (
        f"{len(paths)} JPEGs 640×480 ({size_kb:.0f} kB each), model {manifest.name}, chosen variant "
        f"{proof.chosen}, input {tensors.shape[1]}×{tensors.shape[2]}.  "
    )
    split = (
        f"One after the other on one thread: read {spent['read']:.2f} ms, "
        f"decode {spent['decode']:.2f} ms ({spent['decode'] / total:.0%}), "
        f"resize {spent['resize']:.2f} ms ({spent['resize'] / total:.0%}), infer and decide {spent['infer']:.2f} ms."
    )
    columns = ["inference threads", "bare session.run, per s (rounds)", "agent, per s (rounds)", "ratio of medians"]
    columns += ["CPU ms a picture, bare / agent"]
    lines = [about, split, "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    with mosquitto(scratch) as port:
        for threads in options.threads:
            rates: dict[str, list[float]] = {"bare": [], "agent": []}
            cpu: dict[str, list[float]] = {"bare": [], "agent": []}
            for _ in range(options.rounds):
                for arm, measured in (
                    ("bare", bare(model, tensors, threads)),
                    ("agent", through_agent(root, port, paths, threads)),
                ):
                    rates[arm].append(measured[0])
                    cpu[arm].append(measured[1])
                print(threads, {key: [f"{v:.1f}" for v in values] for key, values in rates.items()}, flush=True)
            medians = {key: statistics.median(values) for key, values in rates.items()}
            shown = {key: f"{medians[key]:.1f} ({', '.join(f'{v:.1f}' for v in rates[key])})" for key in rates}
            spent_ms = " / ".join(f"{statistics.median(cpu[key]):.2f}" for key in ("bare", "agent"))
            ratio = medians["agent"] / medians["bare"]
            lines.append(f"| {threads} | {shown['bare']} | {shown['agent']} | {ratio:.3f} | {spent_ms} |")
        few = paths[: min(len(paths), int(options.rate * 30))]
        found = sorted(latencies(root, port, few, options.rate))
    p50, p99 = found[len(found) // 2], found[int(len(found) * 0.99)]
    said = (
        f"Frame → PUBACK at {options.rate:g} frames a second, one worker, {len(found)} frames: median {p50:.2f} ms, "
        f"p99 {p99:.2f} ms. Beyond decode + resize + inference ({total:.2f} ms): median {p50 - total:.2f} ms, "
        f"p99 {p99 - total:.2f} ms (the journal's group commit with fsync, MQTT and waiting)."
    )
    lines += ["", said]
    return lines


if __name__ == "__main__":
    main()

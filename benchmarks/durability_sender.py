"""What `durability.py` kills: a bare sender, or the real agent; both note what they are doing in a shared page.

The notes are made by subclasses that exist only here. Truth is what the journal confirmed durable, written to
`truth.txt` as (stream, epoch, seq) the moment it was; the kernel keeps that file when the process is killed.
"""

from __future__ import annotations

import argparse
import mmap
import os
import signal
import sys
import threading
import time
from pathlib import Path

import edge_sft.runtime.journal as journal_module
from edge_sft.prediction import Prediction
from edge_sft.runtime.journal import Journal
from edge_sft.runtime.mqtt import MqttLink, MqttSettings
from edge_sft.runtime.outbox import Outbox
from edge_sft.runtime.publisher import Publisher
from edge_sft.runtime.topics import Topics

COMMIT, PUBLISH, RECONNECT = 0, 1, 2
STREAMS = ("line1", "line2")
PIPELINES = ("main",)


def watched(page: mmap.mmap) -> tuple[type[Publisher], type[MqttLink]]:
    """Make the parts of an agent note commit, publish and reconnect in the page."""

    class WatchedOutbox(Outbox):
        def commit(self, *args):  # type: ignore[no-untyped-def]
            page[COMMIT] = 1
            try:
                return super().commit(*args)
            finally:
                page[COMMIT] = 0

    class WatchedPublisher(Publisher):
        def _publish(self, *args, **options):  # type: ignore[no-untyped-def]
            page[PUBLISH] = 1
            try:
                return super()._publish(*args, **options)
            finally:
                page[PUBLISH] = 0

    class WatchedLink(MqttLink):
        def _live_once(self):  # type: ignore[no-untyped-def]
            page[RECONNECT] = 1  # until it is connected or has failed: waiting between attempts does not count
            try:
                return super()._live_once()
            finally:
                page[RECONNECT] = 0

        def start(self):  # type: ignore[no-untyped-def]
            self.on_connected(lambda: page.__setitem__(RECONNECT, 0))
            return super().start()

    journal_module.Outbox = WatchedOutbox  # type: ignore[misc]
    return WatchedPublisher, WatchedLink


def confess(journal: Journal, root: Path) -> None:
    """Write down what the journal confirms."""
    truth = os.open(root / "truth.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    journal.listen(lambda places: os.write(truth, "".join(f"{s} {e} {n}\n" for s, e, n in places).encode()))


def drain(journal: Journal) -> None:
    deadline = time.monotonic() + 60
    while journal.waiting and time.monotonic() < deadline:
        time.sleep(0.05)
    print(f"drained, {journal.waiting} left", flush=True)


def send(args: argparse.Namespace, page: mmap.mmap, stop: threading.Event) -> None:
    """Journal and publish predictions until told to stop, then drain."""
    publisher_class, link_class = watched(page)
    settings = MqttSettings(port=args.port, first_wait_s=0.1, longest_wait_s=1.0)
    options = {"ack": args.ack, "backfill_per_s": 3000.0, "ack_timeout_s": 2.0}
    with Journal(args.root / "journal.db") as journal:
        confess(journal, args.root)
        link = link_class(settings, client_id="sender")
        with link, publisher_class(journal, link, Topics("plant", "line", "device"), **options):  # type: ignore[arg-type]
            began, count = time.monotonic(), 0
            while not stop.is_set():
                due = int((time.monotonic() - began) * args.per_s)
                for _ in range(due - count):
                    journal.append(prediction(count))
                    count += 1
                stop.wait(0.004)
            drain(journal)


def prediction(count: int) -> Prediction:
    return Prediction(
        stream=STREAMS[count % 2],
        name=str(count),
        captured_at="2026-01-01T00:00:00.000Z",
        decided_at="2026-01-01T00:00:00.010Z",
        latency_ms=10.0,
        verdict="ok",
        label="good",
        score=0.01,
        confidence=0.99,
        probabilities={"good": 0.99, "scratch": 0.01},
    )


def run_agent(args: argparse.Namespace, page: mmap.mmap, stop: threading.Event) -> None:
    """Run the real agent over a small model and small pictures, in a loop."""
    import edge_sft.runtime.agent as agent_module
    from edge_sft.runtime.config import AgentConfig

    agent_module.Publisher, agent_module.MqttLink = watched(page)  # type: ignore[misc]
    source = {"kind": "files", "path": str(args.root / "pictures"), "loop": True, "rate": args.per_s / len(PIPELINES)}
    config = AgentConfig.model_validate(
        {
            "agent": {"root": args.root / "device", "site": "plant", "line": "line", "device": "device"},
            "mqtt": {"port": args.port, "ack": args.ack, "backfill_per_s": 3000.0},
            "pipeline": [{"name": name, "source": source, "threads": 1} for name in PIPELINES],
        }
    )
    agent = agent_module.Agent(config)
    confess(agent.journal, args.root)
    agent.run(stop)


def prepare_agent(root: Path) -> None:
    """Deploy a small model (random weights) and write small pictures. Needs the training environment's onnx."""
    sys.path.insert(0, str(Path(__file__).parent))
    from agent_models import make_bundle, small_graph
    from agent_pictures import write_jpegs

    from edge_sft.bundle.keys import trusted
    from edge_sft.deploy.local import deploy
    from edge_sft.profile import load

    graph = {"fp32": small_graph(32, (8, 16), depthwise=False, seed=1)}
    bundle = make_bundle(root, root / "keys", graph, name="small", version="1.0.0", size=32)
    for name in PIPELINES:
        deploy(bundle, root / "device", pipeline=name, profile=load("x86-cpu"), trusted_keys=trusted(root / "keys"))
    write_jpegs(root / "pictures", 50, 64, 64)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--per-s", type=float, required=True)
    parser.add_argument("--ack", required=True)
    parser.add_argument("--agent", action="store_true")
    args = parser.parse_args()
    page = mmap.mmap(os.open(args.root / "phase", os.O_RDWR), 16)
    page[0:3] = b"\0\0\0"
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    (run_agent if args.agent else send)(args, page, stop)


if __name__ == "__main__":
    main()

"""What travels: edge-sft's federation against Flower's plain FedAvg on the same models, and what it costs in quality.

    python benchmarks/federated_bytes.py wire                        # real processes, bytes counted between them
    python benchmarks/federated_bytes.py quality --task turbofans    # rounds with and without compression
    python benchmarks/federated_bytes.py                             # both

wire      Two plants, the same learner on both sides. Ours: `federate run` behind nginx and TLS, and all that a run has:
          greeting, starting weights, rounds, final models (two steps a round: bytes do not depend on them). Theirs: a
          SuperLink and SuperNodes, FedAvg, float32 weights as an ArrayRecord; as it comes, where each site evaluates
          the weights of each round as ours do (ours in the same message), and without. Everything goes through a relay
          that counts what passes, chatter and TLS included.
quality   The rounds of federated_quality.py, whose int8 models are used where they are there already, against the same
          rounds with `compression = "none"`: Flower's own average of float32 updates. The global models are compared
          picture by picture (machine by machine) on the validation split, with the 95 % interval by bootstrap.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bytes_wire
import federated_quality as quality
import torch
from federated_quality import SILENT, TASKS, WORK, Said, Task

from edge_sft.federated.learner import Learner
from edge_sft.federated.run_store import RunStore
from edge_sft.federated.settings import section_of
from edge_sft.federated.simulate import simulate


class _Enough(BaseException):
    """The last round is done; final models are not wanted."""


def globally(task: Task, name: str, seed: int, compression: str, work: Path) -> dict[str, Said]:
    """Return what the global model after all rounds says of each site's validation split; train where it must."""
    if compression == "int8" and all((work / name / str(seed) / site / "global").is_dir() for site in task.sites):
        return said(task, work / name / str(seed))
    work = work / f"{name}-{compression}" / str(seed)
    learners: dict[str, Learner] = {}

    def make(_: str, data: Path, cache: Path, __: Any) -> Learner:
        site = data.parent.name
        if site not in learners:
            learners[site] = task.learner(site, seed, cache)
        return learners[site]

    text = task.text(seed)
    store = RunStore.create(work / "runs", "bytes", f'{text}\n[federated]\ncompression = "{compression}"\n')
    rounds = rounds_of(store)
    for site in task.sites:
        (folder := store.folder / "sites" / site / "data").mkdir(parents=True, exist_ok=True)
        (folder.parent / "site.toml").write_text(f'site = "{site}"\ndata = "data"\n')
    began = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {name}, {compression}: {words}", flush=True)
        if words.startswith(f"round {rounds} of {rounds}"):
            raise _Enough

    state = store.load()
    if state is None or state.done < rounds:
        try:
            simulate(store, say, make)
        except _Enough:
            state = store.load()
    assert state is not None
    for site in task.sites:
        learner = make("", store.folder / "sites" / site / "data", work / site / "cache", None)
        learner.load(state.weights)
        learner.checkpoint(work / site / "global", personal=False, progress=SILENT)
    return said(task, work)


def rounds_of(store: RunStore) -> int:
    """Return how many rounds the run's recipe means."""
    return section_of(store.recipe()).rounds


def said(task: Task, work: Path) -> dict[str, Said]:
    """Read what the sites' global checkpoints said of their validation samples."""
    return {site: task.said(work / site / "global", site, "val") for site in task.sites}


def against_float(names: Sequence[str], seed: int) -> str:
    """Return the table of quality."""
    lines = [
        "| set | site | units | float32 | int8 | int8 − float32 [95 %] | no worse |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        task = TASKS[name]
        small, whole = (globally(task, name, seed, compression, WORK) for compression in ("int8", "none"))
        for site in task.sites:
            gain, low, high = quality.paired(task, small[site], whole[site])
            marks = f"{task.mark(whole[site]):.2f} | {task.mark(small[site]):.2f}"
            units = len(set(small[site].unit))
            fine = "yes" if high >= 0 else "**NO**"
            lines.append(f"| {name} | {site} | {units} | {marks} | {gain:+.2f} [{low:+.2f}, {high:+.2f}] | {fine} |")
    unit = "Balanced accuracy in points; RMSE in cycles, its gain in per cent of the float32 model's."
    return "\n".join([*lines, "", f"{unit} Seed {seed}, the global model after the last round."])


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="wire, quality; default: both")
    parser.add_argument("--task", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=10, help="on the wire")
    parser.add_argument("--model", default="", help="on the wire: pictures, or life; default: both")
    parser.add_argument("--port", type=int, default=22100, help="the first of eight free ports")
    parser.add_argument("--out", type=Path, help="add the tables to this file, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    what, tables = options.what or ["wire", "quality"], []
    if "wire" in what:
        with tempfile.TemporaryDirectory(prefix="edge-sft-bytes-") as scratch:
            tables.append(bytes_wire.measured(Path(scratch), options.rounds, options.port, options.model))
    if "quality" in what:
        tables.append(against_float(options.task, options.seed))
    head = (
        f"`python benchmarks/federated_bytes.py {' '.join(what)}`  \n"
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {platform.machine()}, {os.cpu_count()} cores, one thread, "
        f"Flower {version('flwr')}, PyTorch {version('torch')}"
    )
    text = "\n\n".join([head, *tables]) + "\n"
    print(f"\n{text}")
    if options.out:
        before = options.out.read_text() if options.out.exists() else "# What travels, against plain FedAvg\n"
        options.out.write_text(f"{before}\n{text}")
    if "**NO**" in text:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

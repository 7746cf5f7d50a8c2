"""For `federated_overhead.py`: rounds over real processes, ours and Flower's quickstarts, taking turns."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from edge_sft.federated.environment import flower_environment, flower_program

EDGE_SFT = (sys.executable, "-m", "edge_sft.cli.main")
ROOT = Path(__file__).resolve().parents[1]
SITES, ROUNDS = ("lyon", "turin"), 4
_ROUND = re.compile(r'"kind": ?"round"')

# As Flower's quickstart-numpy and quickstart-pytorch have them (flower/examples, Message API), with data made on the
# spot instead of downloaded, one step an epoch, and a line a round written for the clock.
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "{name}"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "flwrlabs"
[tool.flwr.app.components]
serverapp = "{name}.server_app:app"
clientapp = "{name}.client_app:app"
[tool.flwr.app.config]
num-server-rounds = 3
out = ""
"""
SERVER = """
import time
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from {name}.task import initial
app = ServerApp()
@app.main()
def main(grid: Grid, context: Context) -> None:
    def evaluate(number, arrays):
        with open(context.run_config["out"], "a") as file:
            file.write(f'"kind": "round" {{number}}\\n' if number else "")
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=1.0)
    strategy.start(grid=grid, initial_arrays=ArrayRecord(initial()), evaluate_fn=evaluate,
                   num_rounds=context.run_config["num-server-rounds"])
"""
NUMPY = {
    "task": """
import numpy as np
def initial():
    return [np.zeros((10, 10), np.float32)]
""",
    "client_app": """
import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.train()
def train(msg: Message, context: Context):
    weights = msg.content["arrays"].to_numpy_ndarrays()
    weights = [one + np.float32(0.01) for one in weights]
    metrics = MetricRecord({"num-examples": 32, "train_loss": 0.5})
    return Message(RecordDict({"arrays": ArrayRecord(weights), "metrics": metrics}), reply_to=msg)
@app.evaluate()
def evaluate(msg: Message, context: Context):
    metrics = MetricRecord({"num-examples": 32, "eval_loss": 0.5})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
""",
}
TORCH = {
    "task": """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.pool = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2, 2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)
    def forward(self, x):
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x))).flatten(1)
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
def initial():
    return Net().state_dict()
""",
    "client_app": """
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from quick_torch.task import Net
app = ClientApp()
def opened(msg):
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    return net, torch.rand(32, 3, 32, 32), torch.randint(0, 10, (32,))
@app.train()
def train(msg: Message, context: Context):
    net, pictures, labels = opened(msg)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    loss = torch.nn.functional.cross_entropy(net(pictures), labels)
    loss.backward()
    optimiser.step()
    metrics = MetricRecord({"num-examples": 32, "train_loss": float(loss)})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=msg)
@app.evaluate()
def evaluate(msg: Message, context: Context):
    net, pictures, labels = opened(msg)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(net(pictures), labels)
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 32, "eval_loss": float(loss)})}), reply_to=msg)
""",
}
RECIPE = """[export]
variants = ["fp32"]

[train]
steps = 8
folds = 2
"""


@dataclass(frozen=True)
class Rounds:
    """When rounds were done, seconds: the whole command, until the first, between one and the next."""

    whole: float
    first: float
    between: tuple[float, ...]


def watched(command: Sequence[object], record: Path, env: Mapping[str, str] | None = None, least: int = 0) -> Rounds:
    """Run a command and look when a file gets a round's line.

    Args:
        command: What is run.
        record: The file that gets a line a round.
        env: Its environment.
        least: So many lines are waited for after the command has ended: it may only hand the run over.
    """
    log = record.parent.parent / f"{record.parent.name}-{record.stem}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    seen: list[float] = []
    began = time.monotonic()
    with log.open("wb") as out:
        running = subprocess.Popen(list(map(str, command)), stdout=out, stderr=out, env=env, cwd=log.parent)
        try:
            while running.poll() is None or len(seen) < least:
                count = len(_ROUND.findall(record.read_text())) if record.exists() else 0
                seen += [time.monotonic() - began] * (count - len(seen))
                if time.monotonic() - began > 400 or running.poll():
                    break
                time.sleep(0.02)
        finally:
            running.kill()
            running.wait()
    if running.returncode or len(seen) < 2:
        raise SystemExit(f"{command} ended with {running.returncode} after {len(seen)} rounds:\n{log.read_text()}")
    between = tuple(round(after - before, 2) for before, after in itertools.pairwise(seen))
    return Rounds(time.monotonic() - began, seen[0], between)


class Running:
    """Processes that end together."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = dict(env)
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, words: Sequence[str | Path], log: Path) -> Callable[[str], None]:
        """Start a program; return what waits for a word in its log."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                list(map(str, words)), stdout=out, stderr=out, env=self.env, start_new_session=True
            )
        self._started.append(process)

        def until(said: str) -> None:
            ends = time.monotonic() + 120
            while said not in log.read_text(errors="replace"):
                if time.monotonic() > ends or process.poll() is not None:
                    raise SystemExit(f"{words} never said {said!r}:\n{log.read_text()}")
                time.sleep(0.1)

        return until

    def close(self) -> None:
        """End them, last first."""
        for one in reversed(self._started):
            one.send_signal(signal.SIGTERM)
        for one in reversed(self._started):
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)
            one.wait()


def verb(folder: Path, line: str) -> None:
    """Run a verb of edge-sft."""
    done = subprocess.run([*EDGE_SFT, *line.split()], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"edge-sft {line}:\n{done.stdout}{done.stderr}")


def ours(work: Path, port: int, running: Running) -> Path:
    """Start a coordinator and its sites; return the folder in which runs are started."""
    plants = example()
    work.mkdir()
    recipe = (ROOT / "examples" / "turbofan_plants" / "recipe.toml").read_text().partition("[train]")[0]
    recipe = recipe.replace("length = 100", "length = 40")
    (work / "recipe.toml").write_text(f"{recipe}{RECIPE}\n[federated]\nrounds = {ROUNDS}\nsteps = 1\n")
    verb(
        work,
        f"federate init --address 127.0.0.1:{port} --listen 127.0.0.1:{port} --superlink-port {port + 1} --dir hub",
    )
    running.start([*EDGE_SFT, "federate", "up", "--dir", work / "hub"], work / "up.log")("is up")
    for number, site in enumerate(SITES):
        (work / f"data-{site}").mkdir()
        plants.made_up(work / f"data-{site}" / "engines", random.Random(number), wear=1.0, gain=1.0)
        verb(work, f"federate invite {site} --dir hub")
        data = f"--data data-{site}/engines --recipe recipe.toml"
        verb(work, f"site join {site}.invite {data} --dir {site}")
        said = running.start([*EDGE_SFT, "site", "run", "--dir", work / site], work / f"{site}.log")
        said("does not admit")
        verb(work, f"site approve {site}.join --dir hub")
        said("serving: node")
    return work


def example() -> Any:
    """Load the example that makes up engines."""
    spec = spec_from_file_location("turbofan_plants", ROOT / "examples" / "turbofan_plants" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def theirs(work: Path, port: int, running: Running) -> None:
    """Start a SuperLink and SuperNodes as the quickstarts' pages do, and write the apps."""
    work.mkdir()
    link = [flower_program("flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    running.start(link, work / "superlink.log")
    until_open(port)
    for number in range(len(SITES)):
        node = [flower_program("flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{port}"]
        node += ["--host", "127.0.0.1", "--port", str(port + 1 + number)]
        node += ["--node-config", f"partition-id={number} num-partitions={len(SITES)}"]
        running.start(node, work / f"node-{number}.log")
    for name, files in {"quick_numpy": NUMPY, "quick_torch": TORCH}.items():
        place = work / name.replace("_", "-")
        (place / name).mkdir(parents=True)
        (place / "pyproject.toml").write_text(
            PROJECT.format(name=name).replace(f'name = "{name}"', f'name = "{place.name}"')
        )
        (place / name / "__init__.py").write_text("")
        (place / name / "server_app.py").write_text(SERVER.format(name=name))
        for file, text in files.items():
            (place / name / f"{file}.py").write_text(text)
    home = Path(running.env["FLWR_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    text = f'[superlink]\ndefault = "quick"\n[superlink.quick]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(text)


def until_open(port: int) -> None:
    """Wait until something listens."""
    import socket

    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on {port}")


@contextlib.contextmanager
def both(work: Path, port: int) -> Iterator[dict[str, Callable[[int], Rounds]]]:
    """Yield how each is run, by its name."""
    mine = Running(os.environ)
    other = Running(flower_environment(os.environ, work / "home"))
    try:
        hub = ours(work / "ours", port, mine)
        theirs(work / "theirs", port + 2, other)

        def edge_sft(turn: int) -> Rounds:
            words = [*EDGE_SFT, "federate", "run", hub / "recipe.toml", "--name", f"turn-{turn}", "--dir", hub / "hub"]
            return watched(words, hub / "hub" / "runs" / f"turn-{turn}" / "rounds.jsonl")

        def quick(name: str) -> Callable[[int], Rounds]:
            def run(turn: int) -> Rounds:
                out = work / "theirs" / f"{name}-{turn}" / "rounds"
                out.parent.mkdir()
                config = f'num-server-rounds={ROUNDS} out="{out}"'
                words = [flower_program("flwr"), "run", work / "theirs" / name, "quick", "--run-config", config]
                return watched(words, out, other.env, ROUNDS)

            return run

        yield {
            "edge-sft: nginx, TLS, node authentication, pinned app": edge_sft,
            "Flower's quickstart, numpy, insecure": quick("quick-numpy"),
            "Flower's quickstart, torch, insecure": quick("quick-torch"),
        }
    finally:
        mine.close()
        other.close()


def measured(work: Path, repeats: int, port: int) -> str:
    """Take turns; return the table."""
    found: dict[str, list[Rounds]] = {}
    (work / "deployed").mkdir()
    with both(work / "deployed", port) as ways:
        for turn in range(repeats):
            for name, run in ways.items():
                found.setdefault(name, []).append(one := run(turn))
                print(f"{name}, turn {turn}: round 1 after {one.first:.1f} s, then {one.between}", flush=True)
    rows = [
        f"| {len(SITES)} sites, one step a round | until round 1 is done s | s a round after that |",
        "|---|---|---|",
    ]
    for name, runs in found.items():
        between = [seconds for one in runs for seconds in one.between]
        first = [one.first for one in runs]
        cells = [f"{statistics.median(some):.2f} ({min(some):.2f}–{max(some):.2f})" for some in (first, between)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)

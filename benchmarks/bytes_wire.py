"""For `federated_bytes.py`: the same learner over our federation and over Flower's plain FedAvg, bytes counted."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import overhead_deployed as deployed
from overhead_deployed import EDGE_SFT, PROJECT, ROOT, SITES, Running, until_open, verb

from edge_sft.federated.environment import flower_environment, flower_program

DATA = ROOT.parent / "shared" / "data"
LIMIT = 0.25
SERVER = """
import json
from pathlib import Path
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from {name}.task import learner
app = ServerApp()
@app.main()
def main(grid: Grid, context: Context) -> None:
    def evaluate(number, arrays):
        with open(context.run_config["out"], "a") as file:
            file.write(f'"kind": "round" {{number}}\\n' if number else "")
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=context.run_config["evaluate"])
    weights = [one for _, one in sorted(learner(0).weights().items())]
    strategy.start(grid=grid, initial_arrays=ArrayRecord(weights), evaluate_fn=evaluate,
                   num_rounds=context.run_config["num-server-rounds"])
"""
TASK = """
import json
from pathlib import Path
from edge_sft.federated.learners import make_learner
from edge_sft.progress import Silent
def learner(number):
    told = json.loads(Path({told!r}).read_text())
    work = Path(told["work"]) / str(number)
    work.mkdir(parents=True, exist_ok=True)
    return make_learner(told["recipe"], Path(told["data"][number]), work, Silent())
"""
CLIENT = """
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from edge_sft.progress import Silent
from {name}.task import learner
app = ClientApp()
@app.train()
def train(msg: Message, context: Context):
    mine = learner(context.node_config["partition-id"])
    names = sorted(mine.weights())
    mine.load(dict(zip(names, msg.content["arrays"].to_numpy_ndarrays())))
    learnt = mine.train(round_number=1, rounds=1, steps=2, proximal=0.0, progress=Silent())
    weights = mine.weights()
    metrics = MetricRecord({{"num-examples": learnt.samples, "train_loss": learnt.loss}})
    return Message(RecordDict({{"arrays": ArrayRecord([weights[one] for one in names]), "metrics": metrics}}),
                   reply_to=msg)
@app.evaluate()
def evaluate(msg: Message, context: Context):
    mine = learner(context.node_config["partition-id"])
    mine.load(dict(zip(sorted(mine.weights()), msg.content["arrays"].to_numpy_ndarrays())))
    judged = mine.judge("val")
    metrics = MetricRecord({{"num-examples": judged.samples, "eval_loss": -judged.score}})
    return Message(RecordDict({{"metrics": metrics}}), reply_to=msg)
"""
# Flower's default, and without what ours does in the same message: judging the weights at each site.
PLAIN = {"Flower's FedAvg, as it comes": 1.0, "Flower's FedAvg, nothing evaluated at the sites": 0.0}


@dataclass(frozen=True)
class Case:
    """A model: its name, the recipe without ``[federated]``, what writes a site's data into a folder."""

    name: str
    recipe: str
    data: Callable[[Path, int], Path]


class Relay:
    """Passes TCP connections on and counts their bytes."""

    def __init__(self, port: int, target: int) -> None:
        self.up = self.down = 0
        self._target, self._lock = target, threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # nobody listens there yet
                near.close()
                continue
            for source, sink, upwards in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._pump, args=(source, sink, upwards), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upwards: bool) -> None:
        with suppress(OSError):
            while block := source.recv(1 << 16):
                with self._lock:
                    self.up += len(block) * upwards
                    self.down += len(block) * (not upwards)
                sink.sendall(block)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Take no more connections."""
        self._listening.close()


def cases(work: Path) -> list[Case]:
    """Return the models: remaining life as the example has it, and what `edge-sft init` drafts for pictures."""
    life = (ROOT / "examples" / "turbofan_plants" / "recipe.toml").read_text().partition("[train]")[0]
    life = life.replace("length = 100", "length = 40") + '[export]\nvariants = ["fp32"]\n\n[train]\nfolds = 2\n'
    plants = deployed.example()

    def engines(folder: Path, number: int) -> Path:
        folder.mkdir()
        plants.made_up(folder / "engines", random.Random(number), wear=1.0, gain=1.0)
        return folder / "engines"

    def steel(folder: Path, number: int) -> Path:
        """Every other picture of ten a class."""
        for label in sorted(path for path in (DATA / "neu_det" / "images").iterdir() if path.is_dir()):
            (folder / label.name).mkdir(parents=True)
            for picture in sorted(label.iterdir())[number:40:2]:
                (folder / label.name / picture.name).symlink_to(picture)
        return folder

    drafted = work / "drafted"
    drafted.mkdir()
    steel(drafted / "steel", 0)
    verb(drafted, "init steel")
    text = (drafted / "recipe.toml").read_text()
    text = "\n".join("size = 64" if line.startswith("size = ") else line for line in text.splitlines())
    return [
        Case("remaining life (mlp + tcn)", life, engines),
        Case("pictures (efficientnet_lite0)", f"{text}\n", steel),
    ]


def measured(work: Path, rounds: int, port: int, models: str = "") -> str:
    """Run both ways on the models that are called so; return the table."""
    lines = [
        "| model | who | up, kB | down, kB | both, kB | our share of it | its own account, kB |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, case in enumerate(case for case in cases(work) if models in case.name):
        place = work / f"case-{number}"
        place.mkdir()
        each, first = len(SITES) * rounds * 1000, port + 10 * number
        ours, told = federated(place / "ours", case, rounds, first)
        lines.append(f"| {case.name} | edge-sft | {shown(ours, each)} | | {told / each:,.0f} |")
        for turn, (title, evaluate) in enumerate(PLAIN.items(), start=1):
            theirs = plain(place / f"flower-{turn}", case, rounds, first + 2 * turn, evaluate)
            share = (ours.up + ours.down) / (theirs.up + theirs.down)
            over = "" if share <= LIMIT else " **NO**" if evaluate else " **over 25 %**"
            lines.append(f"| | {title} | {shown(theirs, each)} | {100 * share:.1f} %{over} | |")
            print("\n".join(lines[-2:]), flush=True)
    return "\n".join(
        [*lines, "", f"A site and round, {rounds} rounds and all that a run has besides, {len(SITES)} sites."]
    )


def shown(relay: Relay, each: int) -> str:
    """Return the cells of what passed."""
    return f"{relay.up / each:,.0f} | {relay.down / each:,.0f} | {(relay.up + relay.down) / each:,.0f}"


def environment(work: Path) -> Running:
    """Return processes with Flower's environment."""
    env = {**flower_environment(os.environ, work / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return Running(env)


def federated(work: Path, case: Case, rounds: int, port: int) -> tuple[Relay, float]:
    """Run ours; return what passed, and what the run says of itself."""
    work.mkdir()
    (work / "recipe.toml").write_text(
        f"{case.recipe}\n[federated]\nrounds = {rounds}\nsteps = 2\ncompare_local = false\n"
    )
    relay, running = Relay(port, port + 1), environment(work)
    try:
        verb(
            work,
            f"federate init --address 127.0.0.1:{port} --listen 127.0.0.1:{port + 1} --superlink-port {port + 1000} "
            "--dir hub",
        )
        running.start([*EDGE_SFT, "federate", "up", "--dir", work / "hub"], work / "up.log")("is up")
        for number, site in enumerate(SITES):
            data = case.data(work / f"data-{site}", number)
            verb(work, f"federate invite {site} --dir hub")
            verb(work, f"site join {site}.invite --data {data} --recipe recipe.toml --dir {site}")
            says = running.start([*EDGE_SFT, "site", "run", "--dir", work / site], work / f"{site}.log")
            says("does not admit")
            verb(work, f"site approve {site}.join --dir hub")
            says("serving: node")
        before = relay.up, relay.down
        verb(work, "federate run recipe.toml --name first --dir hub")
        relay.up, relay.down = relay.up - before[0], relay.down - before[1]
        (result,) = (work / "hub").rglob("federated.json")
        moved = json.loads(result.read_text())["bytes"]
        return relay, float(moved["up"] + moved["down"])
    finally:
        running.close()
        relay.close()


def plain(work: Path, case: Case, rounds: int, port: int, evaluate: float) -> Relay:
    """Run Flower's FedAvg over the same learner; return what passed."""
    work.mkdir()
    relay, running = Relay(port, port + 1), environment(work)
    data = [str(case.data(work / f"data-{site}", number)) for number, site in enumerate(SITES)]
    told = {"recipe": f"{case.recipe}\n[federated]\n", "data": data, "work": str(work / "caches")}
    (work / "told.json").write_text(json.dumps(told))
    try:
        running.start(
            [flower_program("flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port + 1)],
            work / "superlink.log",
        )
        until_open(port + 1)
        for number in range(len(SITES)):
            node = [flower_program("flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{port}"]
            node += ["--host", "127.0.0.1", "--port", str(port + 500 + number)]
            node += ["--node-config", f"partition-id={number} num-partitions={len(SITES)}"]
            running.start(node, work / f"node-{number}.log")
        app = write_app(work)
        out = work / "out" / "rounds.log"
        out.parent.mkdir()
        told_app = f'num-server-rounds={rounds} evaluate={evaluate} out="{out}"'
        home = Path(running.env["FLWR_HOME"])
        home.mkdir(parents=True, exist_ok=True)
        text = f'[superlink]\ndefault = "q"\n[superlink.q]\naddress = "127.0.0.1:{port + 1}"\ninsecure = true\n'
        (home / "config.toml").write_text(text)
        before = relay.up, relay.down
        command = [flower_program("flwr"), "run", str(app), "q", "--stream", "--run-config", told_app]
        done = subprocess.run(command, env=running.env, capture_output=True, text=True, check=False, timeout=1500)
        finished = out.read_text().count("round") if out.exists() else 0
        if finished != rounds:
            raise SystemExit(f"Flower's run ended after {finished} rounds:\n{done.stdout}{done.stderr}")
        relay.up, relay.down = relay.up - before[0], relay.down - before[1]
        return relay
    finally:
        running.close()
        relay.close()


def write_app(work: Path) -> Path:
    """Write the app as Flower's quickstarts have it."""
    name, place = "plain_fedavg", work / "plain-fedavg"
    (place / name).mkdir(parents=True)
    (place / "pyproject.toml").write_text(
        PROJECT.format(name=name).replace(f'name = "{name}"', f'name = "{place.name}"') + "evaluate = 1.0\n"
    )
    files: dict[str, Any] = {"__init__": "", "server_app": SERVER.format(name=name)}
    files |= {"task": TASK.format(told=str(work / "told.json")), "client_app": CLIENT.format(name=name)}
    for file, content in files.items():
        (place / name / f"{file}.py").write_text(content)
    return place

"""Three plants, one better model, no rows sent away: from an empty folder to each plant's own decisions over MQTT.

    python run.py                  small made-up engines, a few minutes
    python run.py --data DIR       NASA's C-MAPSS files: FD001, FD002 and FD003 become the three plants

Every step is a command of edge-sft, printed before it runs. As root on Linux each plant lives in a network namespace
of its own that sees the coordinator's proxy and nothing else; otherwise all of them share this machine's loopback, and
the script says so. Everything is made in --work (default ./runs-three-plants), which must not be there yet.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
PLANTS = {"lyon": "FD001", "turin": "FD002", "graz": "FD003"}
COLUMNS = ("cycle", "op1", "op2", "op3", *(f"s{number}" for number in range(1, 22)), "rul")
EDGE_SFT = (sys.executable, "-m", "edge_sft.cli.main")
AGENT = """
[agent]
site = "{plant}"

[mqtt]
host = "127.0.0.1"
port = {port}
username = "edge-sft"
password_file = "{password}"

[[pipeline]]
name = "main"

[pipeline.source]
kind = "replay"
path = "new"
speed = 0
time = "cycle"
time_format = "number"
"""


class Place:
    """Where a role's commands run: this machine, or a network namespace of their own."""

    address = "127.0.0.1"
    port = 18443

    def __init__(self, name: str, work: Path, number: int) -> None:
        self.name, self.folder, self.number = name, work / name, number
        self.folder.mkdir(parents=True)
        self.mqtt_port = 21883 + number

    def enter(self, words: list[str]) -> list[str]:
        return words

    def environment(self) -> dict[str, str]:
        own = {"EDGE_SFT_KEYS": self.folder / "keys", "EDGE_SFT_ROOT": self.folder / "device", "COLUMNS": "150"}
        own |= {"XDG_STATE_HOME": self.folder / "state"}
        return {**os.environ, **{name: str(value) for name, value in own.items()}}

    def edge_sft(self, line: str, *, quiet: bool = False) -> str:
        """Run a command in this role's folder; show and return what it said."""
        print(f"\n{self.name}$ edge-sft {line}", flush=True)
        words = self.enter([*EDGE_SFT, *line.split()])
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        said = done.stdout.decode(errors="replace")
        if not quiet or done.returncode:
            print(said, end="", flush=True)
        if done.returncode:
            sys.exit(1)
        return said

    def start(self, line: str) -> Started:
        print(f"\n{self.name}$ edge-sft {line} &", flush=True)
        log = self.folder / f"{'-'.join(line.split()[:2])}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.enter([*EDGE_SFT, *line.split()]),
                cwd=self.folder,
                env=self.environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        return Started(process, log)

    def close(self) -> None:
        """Nothing is held."""


class Started:
    """A program in the background and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    def until(self, words: str, patience_s: float = 180.0) -> None:
        """Wait until it says something."""

        def said() -> bool:
            if self.process.poll() is not None:
                sys.exit(f"{self.log.name} ended:\n{self.log.read_text()}")
            return words in self.log.read_text()

        eventually(said, f"'{words}' in {self.log}", patience_s)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(45)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Namespace(Place):
    """A network namespace that a sleeping process holds. The coordinator's has a bridge; the plants hang on it."""

    address = "10.213.7.1"
    port = 8443

    def __init__(self, name: str, work: Path, number: int, coordinator: Namespace | None = None) -> None:
        super().__init__(name, work, number)
        self.mqtt_port = 1883
        hold = ["unshare", "-n", "sh", "-c", "ip link set lo up && echo ready && exec sleep infinity"]
        self.holder = subprocess.Popen(hold, stdout=subprocess.PIPE)
        if self.holder.stdout is None or self.holder.stdout.readline() != b"ready\n":
            raise OSError
        if coordinator is None:
            self.ip("link add br0 type bridge")
            self.ip(f"addr add {self.address}/24 dev br0")
            self.ip("link set br0 up")
            return
        coordinator.ip(f"link add port{number} type veth peer name eth0 netns {self.holder.pid}")
        coordinator.ip(f"link set port{number} master br0 up")
        coordinator.ip(f"link set port{number} type bridge_slave isolated on")  # plants do not see one another
        self.ip(f"addr add 10.213.7.{10 + number}/24 dev eth0")
        self.ip("link set eth0 up")

    def enter(self, words: list[str]) -> list[str]:
        return ["nsenter", "-t", str(self.holder.pid), "-n", "--", *words]

    def ip(self, line: str) -> None:
        subprocess.run(self.enter(["ip", *line.split()]), check=True, capture_output=True)

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait()
        if self.holder.stdout is not None:
            self.holder.stdout.close()


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--data", type=Path, help="folder with NASA's train_, test_ and RUL_FD00n; default: made up")
    given.add_argument("--work", type=Path, default=Path("runs-three-plants"))
    given.add_argument("--loopback", action="store_true", help="no network namespaces, also where they can be had")
    asked = given.parse_args()
    if asked.work.exists():
        sys.exit(f"{asked.work} is there already: remove it, or give another folder with --work")
    work = asked.work.resolve()
    with places(work, loopback=asked.loopback) as (coordinator, plants):
        for number, (plant, place) in enumerate(plants.items()):
            engines(place.folder, asked.data, PLANTS[plant], seed=number)
            shutil.copy(HERE / "device.toml", place.folder)
            (place.folder / "recipe.toml").write_text(recipe(short=asked.data is None))
        (coordinator.folder / "recipe.toml").write_text(recipe(short=asked.data is None))
        with contextlib.ExitStack() as running:
            federate(coordinator, plants, running)
            for place in plants.values():
                to_the_edge(place, running)
            print("\nNow everything ends.", flush=True)
    print(f"\nDone. The report of the run and each plant's model lie in {work}")


def federate(coordinator: Place, plants: dict[str, Place], running: contextlib.ExitStack) -> None:
    """Make the federation, let the plants join, run it."""
    coordinator.edge_sft(f"federate init --address {coordinator.address}:{coordinator.port} --name three-plants")
    up = coordinator.start("federate up")
    running.callback(up.stop)
    up.until("is up")
    for plant, place in plants.items():
        coordinator.edge_sft(f"federate invite {plant}")
        shutil.copy(coordinator.folder / f"{plant}.invite", place.folder)  # by mail, by hand
        place.edge_sft(f"site join {plant}.invite --data engines --recipe recipe.toml")
        serving = place.start("site run")
        running.callback(serving.stop)
        serving.until("waiting: the coordinator does not admit")
        shutil.copy(place.folder / f"{plant}.join", coordinator.folder)
        coordinator.edge_sft(f"site approve {plant}.join")
        serving.until("serving: node")
    coordinator.edge_sft("site list")
    coordinator.edge_sft("federate run recipe.toml --name first")
    coordinator.edge_sft("federate status")
    coordinator.edge_sft("federate report first")


def to_the_edge(place: Place, running: contextlib.ExitStack) -> None:
    """Pack a plant's own model with its own data and key, deploy it, and stream decisions about new engines."""
    place.edge_sft("site ledger")
    place.edge_sft("keys init")
    place.edge_sft("site export --out bundle")
    place.edge_sft("deploy bundle/turbofan-0.1.0.edge --to local --profile device.toml")
    broker = place.start(f"broker --port {place.mqtt_port}")
    running.callback(broker.stop)
    broker.until("password in")
    password = place.folder / "device" / "broker" / "password"
    (place.folder / "agent.toml").write_text(AGENT.format(plant=place.name, port=place.mqtt_port, password=password))
    link = f"--port {place.mqtt_port} --username edge-sft --password-file {password}"
    ledger = place.start(f"ledger decisions.sqlite {link}")
    running.callback(ledger.stop)
    place.edge_sft("run --config agent.toml --until-done", quiet=True)
    database = "ledger decisions.sqlite"
    eventually((place.folder / "decisions.sqlite").exists, "decisions.sqlite")
    time.sleep(1)
    ledger.stop()
    place.edge_sft(f"{database} --export decisions.csv", quiet=True)
    decided = (place.folder / "decisions.csv").read_text().splitlines()
    print(f"{len(decided) - 1} decisions came over MQTT; the last: {decided[-1]}")
    if len(decided) < 2:
        sys.exit(f"{place.name} decided nothing")


@contextlib.contextmanager
def places(work: Path, *, loopback: bool) -> Iterator[tuple[Place, dict[str, Place]]]:
    """Yield the coordinator's place and the plants'; in namespaces where they can be had."""
    why = "as asked" if loopback else lacking()
    made: list[Place] = []
    try:
        if why:
            print(f"All roles share this machine's loopback ({why}).")
            made += [Place(name, work, number) for number, name in enumerate(("coordinator", *PLANTS))]
        else:
            print("Each plant lives in a network namespace that sees the coordinator's proxy and nothing else.")
            bridge = Namespace("coordinator", work, 0)
            made.append(bridge)
            made += [Namespace(name, work, number, bridge) for number, name in enumerate(PLANTS, start=1)]
        yield made[0], {place.name: place for place in made[1:]}
    finally:
        for place in made:
            place.close()


def lacking() -> str:
    """Say why there can be no network namespaces here, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "not root on Linux"
    missing = [tool for tool in ("unshare", "nsenter", "ip") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is not installed"
    tried = subprocess.run(
        ["unshare", "-n", "ip", "link", "add", "br0", "type", "bridge"], capture_output=True, check=False
    )
    return "no network namespaces with bridges here" if tried.returncode else ""


def recipe(*, short: bool) -> str:
    """Return the recipe; for made-up engines one that trains for a moment."""
    text = (HERE / "recipe.toml").read_text(encoding="utf-8")
    if not short:
        return text
    text = text.replace("rounds = 3", "rounds = 2").replace("length = 100", "length = 40")
    return text.replace("[train]\n", '[export]\nvariants = ["fp32"]\n\n[train]\nsteps = 60\nfolds = 2\n')


def engines(folder: Path, data: Path | None, name: str, seed: int) -> None:
    """Put a plant's engines into ``engines``, and two that nobody has seen into ``new``."""
    if data is None:
        made_up(folder / "engines", random.Random(seed), wear=(1.0, 0.7, 1.4)[seed % 3], gain=(1.0, 1.3, 0.8)[seed % 3])
    else:
        turbofan().prepare(data, name, folder / "engines")
    (folder / "new").mkdir()
    for path in sorted((folder / "engines").glob("test-*.csv"))[:2]:
        shutil.copy(path, folder / "new")


def made_up(folder: Path, chance: random.Random, *, wear: float, gain: float) -> None:
    """Write engines whose sensors drift as they wear, one CSV an engine, as a plant's historian would."""
    folder.mkdir()
    for side, count in (("train", 10), ("test", 5)):
        for unit in range(1, count + 1):
            life = chance.randint(70, 130)
            seen = life if side == "train" else chance.randint(45, life - 5)
            with (folder / f"{side}-{unit:03d}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(COLUMNS)
                for cycle in range(1, seen + 1):
                    worn = wear * math.exp((cycle - life) / 15.0)
                    settings = [round(chance.gauss(0, 0.001), 4) for _ in range(3)]
                    sensors = [
                        round(gain * (10 + (index - 10) / 10 * worn) + chance.gauss(0, 0.05), 4) for index in range(21)
                    ]
                    writer.writerow([cycle, *settings, *sensors, float(life - cycle)])


def turbofan() -> ModuleType:
    """Load the example that reads NASA's files."""
    spec = spec_from_file_location("turbofan", HERE.parent / "turbofan" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def eventually(done: Callable[[], bool], what: str, patience_s: float = 120.0) -> None:
    """Wait for something; two busy cores may take their time."""
    ends = time.monotonic() + patience_s
    while not done():
        if time.monotonic() > ends:
            sys.exit(f"waited {patience_s:.0f} s for {what}")
        time.sleep(0.2)


if __name__ == "__main__":
    main()

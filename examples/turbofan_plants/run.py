"""Four plants, one better model, no rows sent away: from an empty folder to each plant's own decisions over MQTT.

    python run.py                      small made-up engines, a few minutes
    python run.py --data DIR           NASA's C-MAPSS files: FD001 to FD004 become the four plants
    python run.py --data DIR --quick   the same, trained for a moment: shows the road, not how good a model gets

Every step is a command of edge-sft, printed before it runs. As root on Linux each plant lives in a network namespace
of its own that sees the coordinator's proxy and nothing else; otherwise all of them share this machine's loopback, and
the script says so. Everything is made in --work (default ./runs-turbofan-plants), which must not be there yet.
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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
PLANTS = {"lyon": "FD001", "turin": "FD002", "graz": "FD003", "porto": "FD004"}
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
ack = "ledger"

[[pipeline]]
name = "main"
source = {source}
"""
ROWS = '{ kind = "replay", path = "new", speed = 0, time = "cycle", time_format = "number" }'


class Place:
    """Where a role's commands run: this machine, or a network namespace of their own."""

    address = "127.0.0.1"
    port = 18443

    def __init__(self, name: str, work: Path, number: int) -> None:
        self.name, self.folder, self.number = name, work / name, number
        self.took: dict[str, float] = {}  # seconds, by what was run
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
        words, began = self.enter([*EDGE_SFT, *line.split()]), time.monotonic()
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        self.took[line] = time.monotonic() - began
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
    given.add_argument("--quick", action="store_true", help="train for a moment; made-up engines need no more anyway")
    given.add_argument("--work", type=Path, default=Path("runs-turbofan-plants"))
    given.add_argument("--loopback", action="store_true", help="no network namespaces, also where they can be had")
    asked = given.parse_args()
    if asked.work.exists():
        sys.exit(f"{asked.work} is there already: remove it, or give another folder with --work")
    work = asked.work.resolve()
    with places(work, PLANTS, loopback=asked.loopback) as (coordinator, plants):
        for number, (plant, place) in enumerate(plants.items()):
            engines(place.folder, asked.data, PLANTS[plant], seed=number)
            shutil.copy(HERE / "device.toml", place.folder)
        for place in (coordinator, *plants.values()):
            (place.folder / "recipe.toml").write_text(recipe(real=asked.data is not None, quick=asked.quick))
        with contextlib.ExitStack() as running:
            federate(coordinator, plants, running, "engines")
            for place in plants.values():
                packed(place, " --profile device.toml")
            told = [said(place, streamed(place, running, ROWS)) for place in plants.values()]
            print("\nNow everything ends.", flush=True)
    print("\nWhat each plant's own model decided, received over MQTT:", *told, sep="\n")
    print(f"\nDone. The report of the run and each plant's model lie in {work}")


def federate(coordinator: Place, plants: dict[str, Place], running: contextlib.ExitStack, data: str) -> None:
    """Make the federation, let the plants join with a folder of theirs, run it."""
    coordinator.edge_sft(f"federate init --address {coordinator.address}:{coordinator.port} --name plants")
    up = coordinator.start("federate up")
    running.callback(up.stop)
    up.until("is up")
    for plant, place in plants.items():
        coordinator.edge_sft(f"federate invite {plant}")
        shutil.copy(coordinator.folder / f"{plant}.invite", place.folder)  # by mail, by hand
        place.edge_sft(f"site join {plant}.invite --data {data} --recipe recipe.toml")
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


def packed(place: Place, profile: str = "") -> None:
    """Export a plant's own model with its own data, sign it with its key, deploy it."""
    place.edge_sft("site ledger")
    place.edge_sft("keys init")
    place.edge_sft("site export --out bundle")
    place.edge_sft(f"deploy {bundle(place)} --to local{profile}")


def streamed(place: Place, running: contextlib.ExitStack, source: str) -> list[dict[str, str]]:
    """Let the agent decide about what nobody has learnt from; return what its plant's broker handed on."""
    broker = place.start(f"broker --port {place.mqtt_port}")
    running.callback(broker.stop)
    broker.until("password in")
    password = place.folder / "device" / "broker" / "password"
    agent = AGENT.format(plant=place.name, port=place.mqtt_port, password=password, source=source)
    (place.folder / "agent.toml").write_text(agent)
    ledger = place.start(
        f"ledger decisions.sqlite --port {place.mqtt_port} --username edge-sft --password-file {password}"
    )
    running.callback(ledger.stop)
    eventually((place.folder / "decisions.sqlite").exists, "decisions.sqlite")
    place.edge_sft("run --config agent.toml --until-done", quiet=True)
    ledger.stop()
    place.edge_sft("ledger decisions.sqlite --status --export decisions.csv")
    with (place.folder / "decisions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def said(place: Place, decisions: list[dict[str, str]]) -> str:
    """Say what came; end where nothing did, or where it is not the signed bundle's."""
    *_, digest = place.edge_sft(f"bundle verify {bundle(place)}").split()
    if not decisions or any(not one["model"].endswith(digest) for one in decisions):
        sys.exit(f"{place.name}: {len(decisions)} decisions came, not all of them made by {bundle(place)}")
    verdicts = ", ".join(f"{many} {verdict}" for verdict, many in Counter(one["verdict"] for one in decisions).items())
    model = f"{Path(bundle(place)).name} {digest[:12]}…, signed here"
    return f"  {place.name}: {len(decisions)} decisions by {model}: {verdicts}"


def bundle(place: Place) -> str:
    """Return where the one bundle of a plant lies, in its folder."""
    (found,) = (place.folder / "bundle").glob("*.edge")
    return str(found.relative_to(place.folder))


@contextlib.contextmanager
def places(work: Path, names: Iterable[str], *, loopback: bool) -> Iterator[tuple[Place, dict[str, Place]]]:
    """Yield the coordinator's place and the plants'; in namespaces where they can be had."""
    why = "as asked" if loopback else lacking()
    made: list[Place] = []
    try:
        if why:
            print(f"All roles share this machine's loopback ({why}).")
            made += [Place(name, work, number) for number, name in enumerate(("coordinator", *names))]
        else:
            print("Each plant lives in a network namespace that sees the coordinator's proxy and nothing else.")
            bridge = Namespace("coordinator", work, 0)
            made.append(bridge)
            made += [Namespace(name, work, number, bridge) for number, name in enumerate(names, start=1)]
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


def recipe(*, real: bool, quick: bool) -> str:
    """Return the recipe, for made-up engines or in a hurry one that trains for a moment."""
    text = (HERE / "recipe.toml").read_text(encoding="utf-8")
    if not real:
        text = text.replace("rounds = 3", "rounds = 2").replace("length = 100", "length = 40")
    elif quick:
        text = text.replace("period_s = 1\n", "period_s = 1\nhop = 5\n")  # every fifth flight, to learn and to decide
    if quick or not real:
        text = text.replace("[train]\n", '[export]\nvariants = ["fp32"]\n\n[train]\nsteps = 60\nfolds = 2\n')
    return text


def engines(folder: Path, data: Path | None, name: str, seed: int) -> None:
    """Put a plant's engines into ``engines``, and two that nobody has seen into ``new``."""
    if data is None:
        made_up(
            folder / "engines", random.Random(seed), wear=(1.0, 0.7, 1.4, 1.2)[seed], gain=(1.0, 1.3, 0.8, 1.1)[seed]
        )
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

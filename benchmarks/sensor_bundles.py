"""One signed bundle a sensor data set, by the public road: what streamed.py and sensor_variants.py look at.

    python benchmarks/sensor_bundles.py --work DIR [--only FD001,skab] [--threads 2] [--anew FD001]

The recipes are those of examples/turbofan (each of C-MAPSS FD001 to FD004), examples/bearing (CWRU) and
examples/process (Tennessee Eastman), and for SKAB what is `SKAB` below; `edge-sft keys init`, `train` and `build`
(check, export, report, signature) make them.
Runs of the data set's test side lie in a folder of their own (``unseen``) that no stage is shown: nothing scores them.
Made once; what was made is kept in DIR, and a stage that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from agent_broker import machine

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
DATA = HERE.parents[1] / "shared" / "data"
RESULT = HERE / "results" / "sensor_training.md"
MADE = "made.json"
LIMIT_S = 300
SKAB = """\
# Anomalies of a water loop (SKAB), the window as in benchmarks/skab.toml.
modality = "window"
name = "skab"

[task]
kind = "anomaly"

[data]
path = "days"
time = "time"
group = 'file:^(.+)\\.csv$'
asset = 'file:^(.+)\\.csv$'
label = "anomaly"
channels = [
  {name = "Accelerometer1RMS"}, {name = "Accelerometer2RMS"}, {name = "Current"}, {name = "Pressure"},
  {name = "Temperature"}, {name = "Thermocouple"}, {name = "Voltage"}, {name = "Volume Flow RateRMS"},
]

[data.split]
val_groups = ["valve2-*"]
test = 0.0

[window]
period_s = 1
length = 30

[policy.commissioning]
quantile = 0.75
factor = 1.0
blocks = 5

[train]
seed = 0
"""


@dataclass(frozen=True)
class Made:
    """A bundle and where its parts lie: ``unseen`` has a file a run, ``healthy`` one a machine that commissions it."""

    name: str
    folder: Path

    @property
    def bundle(self) -> Path:
        return next((self.folder / "runs").glob("*.edge"))

    @property
    def checkpoint(self) -> Path:
        return self.folder / "runs" / "checkpoint"

    @property
    def profile(self) -> Path:
        return self.folder / "device.toml"

    @property
    def unseen(self) -> list[Path]:
        return sorted((self.folder / "unseen").iterdir())

    @property
    def healthy(self) -> list[Path]:
        return sorted((self.folder / "healthy").glob("*"))

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / MADE).read_text())
        return found


def example(name: str) -> ModuleType:
    """Import an example's script: how it turns the public files into a plant's."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / name / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def apart(folder: Path, runs: str, unseen: Callable[[str], bool]) -> None:
    """Put the unseen runs into a folder of their own."""
    target = folder / "unseen"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in sorted((folder / runs).iterdir()):
        if unseen(path.name):
            path.rename(target / path.name)


def without_test(recipe: str) -> str:
    """The recipe for a folder without test runs."""
    lines = ["test = 0.0" if line.startswith("test_groups") else line for line in recipe.splitlines()]
    return "\n".join(lines) + "\n"


def turbofan(folder: Path, name: str) -> str:
    example("turbofan").prepare(DATA / "cmapss", name, folder / "engines")
    apart(folder, "engines", lambda file: file.startswith("test-"))
    recipe = without_test((EXAMPLES / "turbofan" / "recipe.toml").read_text())
    return recipe.replace('name = "turbofan"', f'name = "turbofan-{name.lower()}"')


def bearing(folder: Path, _: str) -> str:
    example("bearing").prepare(DATA / "cwru", folder / "recordings")
    apart(folder, "recordings", lambda file: "-21_" in file)
    return without_test((EXAMPLES / "bearing" / "recipe.toml").read_text())


def process(folder: Path, _: str) -> str:
    """Each unseen run becomes a plant of its own, commissioned on the healthy day under its own name."""
    example("process").prepare(DATA / "tep", folder / "runs-of-the-plant")
    apart(
        folder,
        "runs-of-the-plant",
        lambda file: file == "normal-test.csv" or (file[:6] == "fault-" and file[:8] > "fault-05"),
    )
    healthy = folder / "healthy"
    shutil.rmtree(healthy, ignore_errors=True)
    healthy.mkdir()
    day = (folder / "runs-of-the-plant" / "normal-day.csv").read_text()
    for path in sorted((folder / "unseen").iterdir()):
        path.write_text(path.read_text().replace("reactor-1,", f"{path.stem},"))
        (healthy / path.name).write_text(day.replace("reactor-1,", f"{path.stem},"))
    return without_test((EXAMPLES / "process" / "recipe.toml").read_text())


def water(folder: Path, _: str) -> str:
    from protocol_skab import CHANNELS, HEAD, Experiment, experiments, healthy_day

    def write(path: Path, one: Experiment, rows: slice) -> None:
        table = np.column_stack([one.time[rows], one.label[rows], one.values[rows]])
        form = ",".join(["%d", "%d", *["%.17g"] * len(CHANNELS)])
        np.savetxt(path, table, header=",".join(("time", "anomaly", *CHANNELS)), comments="", fmt=form)

    for name in ("days", "unseen", "healthy"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    write(folder / "days" / "anomaly-free.csv", healthy_day(), slice(None))
    for one in experiments():
        file = one.name.replace("/", "-") + ".csv"
        if file.startswith("valve2"):
            write(folder / "days" / file, one, slice(None))
        else:
            write(folder / "unseen" / file, one, slice(None))
            write(folder / "healthy" / file, one, slice(0, HEAD))
    return SKAB


def encoder(prepare: Callable[[Path, str], str]) -> Callable[[Path, str], str]:
    """The same rows and recipe, with the other architecture that anomalies have."""
    return lambda folder, name: prepare(folder, name) + '\n[model]\narchitecture = "encoder"\n'


SETS: dict[str, tuple[Callable[[Path, str], str], str]] = {
    "FD001": (turbofan, "turbofan"),
    "FD002": (turbofan, "turbofan"),
    "FD003": (turbofan, "turbofan"),
    "FD004": (turbofan, "turbofan"),
    "cwru": (bearing, "bearing"),
    "skab": (water, "process"),
    "tep": (process, "process"),
    "skab-encoder": (encoder(water), "process"),
    "tep-encoder": (encoder(process), "process"),
}


def made(work: Path) -> list[Made]:
    """The bundles that are there, in the order of `SETS`."""
    return [Made(name, work / name) for name in SETS if (work / name / MADE).is_file()]


def environment(work: Path) -> dict[str, str]:
    """Of every command: keys in the work folder, threads that wait asleep."""
    return {**os.environ, "EDGE_SFT_KEYS": str(work.resolve() / "keys"), "OMP_WAIT_POLICY": "PASSIVE"}


def edge_sft(work: Path, folder: Path, *words: str) -> tuple[float, float]:
    """Run a command of edge-sft; return seconds by the clock and user seconds of the processor."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, "-m", "edge_sft.cli.main", *words]
    subprocess.run(command, cwd=folder, env=environment(work), check=True)
    return time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def make(work: Path, name: str, threads: int) -> None:
    prepare, of_example = SETS[name]
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.toml"
    if not recipe.is_file():  # written last, so a preparation that was killed is made again
        text = prepare(folder, name)
        shutil.copy(EXAMPLES / of_example / "device.toml", folder / "device.toml")
        recipe.write_text(text)
    load = os.getloadavg()[0]
    checkpoint = ("--out", "runs/checkpoint")
    fresh = not (folder / "runs" / "checkpoint").exists()
    train = edge_sft(work, folder, "train", "recipe.toml", *checkpoint, "--threads", str(threads))
    build = edge_sft(work, folder, "build", "recipe.toml", "--out", "runs")
    facts = {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
        ).stdout.strip(),
        "threads": threads,
        "load": load,
        "train_s": train[0] if fresh else None,
        "train_user_s": train[1] if fresh else None,
        "build_s": build[0],
        "build_user_s": build[1],
        "bundle_kib": next((folder / "runs").glob("*.edge")).stat().st_size / 1024,
    }
    (folder / MADE).write_text(json.dumps(facts, indent=1))


def report(work: Path) -> str:
    lines = [
        "# Training of each default recipe, from files to a signed bundle\n",
        f"`python benchmarks/sensor_bundles.py {' '.join(sys.argv[1:])}`",
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {machine()}.\n",
        "The machine was shared with other processes: user seconds are the processor's time spent in training itself.",
        "Export holds reading, `check`, all variants with their gates, the report and signing.\n",
        "| set | bundle | train, s | train, user s | threads | load | check, export, sign, s | KiB | commit |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    slow = []
    for one in made(work):
        facts = one.facts
        wall, user = (f"{facts[k]:.0f}" if facts[k] is not None else "resumed" for k in ("train_s", "train_user_s"))
        lines.append(
            f"| {one.name} | {one.bundle.name} | {wall} | {user} | {facts['threads']} | {facts['load']:.1f} | "
            f"{facts['build_s']:.0f} | {facts['bundle_kib']:.0f} | {facts['commit']} |"
        )
        if (facts["train_s"] or 0) > LIMIT_S:
            slow.append(f"{one.name} ({facts['train_user_s']:.0f} s of processor time)")
    lines.append(f"\nOver {LIMIT_S} s by the clock: {', '.join(slow) or 'none'}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--work", type=Path, required=True, help="folder to keep everything in")
    given.add_argument("--only", default="", help="sets, with commas")
    given.add_argument("--anew", default="", help="sets to make again, with commas")
    given.add_argument("--threads", type=int, default=2)
    given.add_argument("--out", type=Path, default=RESULT)
    asked = given.parse_args()
    wanted = asked.only.split(",") if asked.only else list(SETS)
    for name in (*wanted, *(asked.anew.split(",") if asked.anew else [])):
        if name not in SETS:
            sys.exit(f"{name} is no set. Known: {', '.join(SETS)}")
    for name in asked.anew.split(",") if asked.anew else []:
        shutil.rmtree(asked.work / name, ignore_errors=True)
    asked.work.mkdir(parents=True, exist_ok=True)
    if not any((asked.work / "keys").glob("*")):
        edge_sft(asked.work, asked.work, "keys", "init")
    for name in wanted:
        if not (asked.work / name / MADE).is_file():
            print(f"\n== {name}", flush=True)
            make(asked.work, name, asked.threads)
    text = report(asked.work)
    asked.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

"""Faults of a chemical process: a model that needs no fault to learn from, commissioned on a healthy run.

    python run.py --data DIR

DIR holds the Tennessee Eastman runs: tep.npz with d00 … d21 and d00_te … d21_te, or Braatz's d00.dat … d21_te.dat.
Everything is made in --work (default ./runs-process); run again, what did not change is not made again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
CHANNELS = (*(f"xmeas{number}" for number in range(1, 42)), *(f"xmv{number}" for number in range(1, 12)))
FAULT_FROM = 160  # rows of a test run before its fault begins
STEP_S = 180


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--data", type=Path, required=True, help="folder with tep.npz, or with d00.dat … d21_te.dat")
    given.add_argument("--fault", type=int, default=6, choices=range(1, 22), help="which one to watch at the end")
    given.add_argument("--work", type=Path, default=Path("runs-process"))
    given.add_argument("--quick", action="store_true", help="train a little, to see the road rather than the numbers")
    asked = given.parse_args()
    prepare(asked.data, asked.work / "runs-of-the-plant")
    recipe = (HERE / "recipe.toml").read_text(encoding="utf-8")
    if asked.quick:
        recipe = recipe.replace("[train]\n", "[train]\nsteps = 60\nfolds = 2\n")
    (asked.work / "recipe.toml").write_text(recipe, encoding="utf-8")
    shutil.copy(HERE / "device.toml", asked.work / "device.toml")
    if not any((asked.work / "keys").glob("*")):
        edge_sft(asked.work, "keys", "init")
    edge_sft(asked.work, "check", "recipe.toml", "--html", "check.html")
    edge_sft(asked.work, "build", "recipe.toml", "--out", "runs")
    edge_sft(asked.work, "deploy", "runs/process-0.1.0.edge", "--to", "local", "--profile", "device.toml")
    edge_sft(asked.work, "commission", "runs-of-the-plant/normal-day.csv")
    print(f"\nA day with fault {asked.fault}, from its hour eight on:", flush=True)
    day = f"runs-of-the-plant/fault-{asked.fault:02d}.csv"
    edge_sft(asked.work, "predict", "runs/process-0.1.0.edge", day, lines=24)
    print(f"\nRead {asked.work / 'runs' / 'report.html'}")


def prepare(data: Path, out: Path) -> None:
    """Write one CSV a run: a time, a fault or none, 52 channels."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    runs = read(data)
    write(out / "normal-day.csv", runs["d00"], len(runs["d00"]))
    for number in range(22):
        rows = runs[f"d{number:02d}_te"]
        name = "normal-test" if number == 0 else f"fault-{number:02d}"
        write(out / f"{name}.csv", rows, len(rows) if number == 0 else FAULT_FROM)


def write(path: Path, rows: NDArray[np.float64], healthy: int) -> None:
    fault = np.arange(len(rows)) >= healthy
    table = np.column_stack([np.arange(len(rows)) * STEP_S, fault, rows])
    header = ",".join(("plant", "time", "fault", *CHANNELS))
    form = ",".join(["reactor-1,%d", "%d", *["%.9g"] * len(CHANNELS)])
    np.savetxt(path, table, header=header, comments="", fmt=form)


def read(data: Path) -> dict[str, NDArray[np.float64]]:
    names = ["d00", *(f"d{number:02d}_te" for number in range(22))]
    if (data / "tep.npz").is_file():
        with np.load(data / "tep.npz") as file:
            return {name: upright(file[name]) for name in names}
    missing = [name for name in names if not (data / f"{name}.dat").is_file()]
    if missing:
        sys.exit(f"{data} holds neither tep.npz nor {missing[0]}.dat. Give the folder of the TEP runs: --data DIR")
    return {name: upright(np.loadtxt(data / f"{name}.dat")) for name in names}


def upright(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """One row a moment; the published d00.dat lies on its side."""
    return rows if rows.shape[1] == len(CHANNELS) else rows.T


def edge_sft(work: Path, *words: str, lines: int | None = None) -> None:
    """Run one command of edge-sft in the work folder, with keys and device state of its own; show so many lines."""
    print(f"\n$ edge-sft {' '.join(words)}", flush=True)
    places = {"EDGE_SFT_KEYS": str(work.resolve() / "keys"), "EDGE_SFT_ROOT": str(work.resolve() / "device")}
    command = [sys.executable, "-m", "edge_sft.cli.main", *words]
    output = None if lines is None else subprocess.PIPE
    done = subprocess.run(command, cwd=work, env={**os.environ, **places}, check=False, stdout=output, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    said = (done.stdout or "").splitlines()
    for line in said[:: max(1, len(said) // (lines or 1))]:
        print(line)


if __name__ == "__main__":
    main()

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
STEPS = (
    "build recipe.toml --out runs",
    "deploy runs/process-0.1.0.edge --to local --profile device.toml",
    "commission runs-of-the-plant/normal-day.csv",
    "predict runs/process-0.1.0.edge runs-of-the-plant/normal-test.csv --csv --out normal-test.csv",
    "predict runs/process-0.1.0.edge runs-of-the-plant/fault-06.csv --csv --out fault-06.csv",
)


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--data", type=Path, required=True, help="folder with tep.npz, or with d00.dat … d21_te.dat")
    given.add_argument("--work", type=Path, default=Path("runs-process"))
    asked = given.parse_args()
    prepare(asked.data, asked.work / "runs-of-the-plant")
    for name in ("recipe.toml", "device.toml"):
        shutil.copy(HERE / name, asked.work)
    keys, device = asked.work.resolve() / "keys", asked.work.resolve() / "device"
    os.environ |= {"EDGE_SFT_KEYS": str(keys), "EDGE_SFT_ROOT": str(device)}
    for line in STEPS if keys.is_dir() else ("keys init", *STEPS):
        print("\n$ edge-sft", line, flush=True)
        if subprocess.call([sys.executable, "-m", "edge_sft.cli.main", *line.split()], cwd=asked.work):
            sys.exit(1)
    print(f"\nTwo days, a healthy one and one with fault 6 from hour eight on: every decision in {asked.work}/*.csv.")
    print(f"Read {asked.work / 'runs' / 'report.html'}")


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


if __name__ == "__main__":
    main()

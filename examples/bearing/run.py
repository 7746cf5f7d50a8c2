"""Faults of a rolling bearing: whole bearings held out, every recording decided by a vote of its windows.

    python run.py --data DIR

DIR holds Case Western's 12 kHz drive-end recordings: .npz files whose arrays are called like 1797_IR_7_DE12
(revolutions a minute, fault, its diameter in thousandths of an inch). Everything is made in --work (default
./runs-bearing).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
KEY = re.compile(r"^(\d+)_(IR|OR|B)(@\d+)?_(\d+)_DE12$")
FAULTS = {"IR": "inner", "OR": "outer", "B": "ball"}


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--data", type=Path, required=True, help="folder with the .npz files")
    given.add_argument("--work", type=Path, default=Path("runs-bearing"))
    given.add_argument("--quick", action="store_true", help="train a little, to see the road rather than the numbers")
    asked = given.parse_args()
    prepare(asked.data, asked.work / "recordings")
    recipe = (HERE / "recipe.toml").read_text(encoding="utf-8")
    if asked.quick:
        recipe = recipe.replace("[train]\n", "[train]\nsteps = 60\nfolds = 2\n")
    (asked.work / "recipe.toml").write_text(recipe, encoding="utf-8")
    shutil.copy(HERE / "device.toml", asked.work / "device.toml")
    if not any((asked.work / "keys").glob("*")):
        edge_sft(asked.work, "keys", "init")
    edge_sft(asked.work, "check", "recipe.toml", "--html", "check.html")
    edge_sft(asked.work, "build", "recipe.toml", "--out", "runs")
    edge_sft(asked.work, "deploy", "runs/bearing-0.1.0.edge", "--to", "local", "--profile", "device.toml")
    unheard = min((asked.work / "recordings").glob("*-21_*.npy"))
    print(f"\nA bearing that the model never heard, window by window: {unheard.stem}", flush=True)
    edge_sft(asked.work, "predict", "runs/bearing-0.1.0.edge", str(unheard.relative_to(asked.work)), lines=12)
    print(f"\nRead {asked.work / 'runs' / 'report.html'}")


def prepare(data: Path, out: Path) -> None:
    """Write one file a recording, named so that a regular expression finds fault and bearing."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for path in sorted(data.glob("*.npz")):
        with np.load(path) as file:
            for key in file.files:
                found = KEY.match(key)
                if found:
                    rpm, fault, place, size = found.groups()
                    name = f"{FAULTS[fault]}-{int(size):02d}_{rpm}rpm{(place or '').replace('@', '_at')}"
                    signal = file[key].astype(np.float32).ravel()
                    rows = np.empty(len(signal), dtype=[("acceleration", "<f4"), ("speed", "<f4")])
                    rows["acceleration"], rows["speed"] = signal, float(rpm)
                    np.save(out / f"{name}.npy", rows)
    if not any(out.iterdir()):
        sys.exit(f"{data} holds no .npz with arrays like 1797_IR_7_DE12. Give the folder of the recordings: --data DIR")


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

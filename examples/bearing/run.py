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
STEPS = (
    "build recipe.toml --out runs",
    "deploy runs/bearing-0.1.0.edge --to local --profile device.toml",
    "predict runs/bearing-0.1.0.edge recordings/ball-21_1730rpm.npy",
)


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--data", type=Path, required=True, help="folder with the .npz files")
    given.add_argument("--work", type=Path, default=Path("runs-bearing"))
    asked = given.parse_args()
    prepare(asked.data, asked.work / "recordings")
    for name in ("recipe.toml", "device.toml"):
        shutil.copy(HERE / name, asked.work)
    keys, device = asked.work.resolve() / "keys", asked.work.resolve() / "device"
    os.environ |= {"EDGE_SFT_KEYS": str(keys), "EDGE_SFT_ROOT": str(device)}
    for line in STEPS if keys.is_dir() else ("keys init", *STEPS):
        print("\n$ edge-sft", line, flush=True)
        if subprocess.call([sys.executable, "-m", "edge_sft.cli.main", *line.split()], cwd=asked.work):
            sys.exit(1)
    print("\nThat was a bearing which the model never heard, window by window.")
    print(f"Read {asked.work / 'runs' / 'report.html'}")


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


if __name__ == "__main__":
    main()

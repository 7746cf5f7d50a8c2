"""Remaining life of turbofan engines: from NASA's files to a proved model, then three engines at their last flight.

    python run.py --data DIR

DIR holds C-MAPSS as NASA publishes it or as CSV: train_FD001, test_FD001 and RUL_FD001 (.txt, .csv or .csv.gz).
Everything is made in --work (default ./runs-turbofan); run again, what did not change is not made again.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
COLUMNS = ("unit", "cycle", "op1", "op2", "op3", *(f"s{number}" for number in range(1, 22)))
STEPS = (
    "build recipe.toml --out runs",
    "deploy runs/turbofan-0.1.0.edge --to local --profile device.toml",
    "predict runs/turbofan-0.1.0.edge --last engines/test-001.csv engines/test-002.csv engines/test-003.csv",
)


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--data", type=Path, required=True, help="folder with train_FD00n, test_FD00n, RUL_FD00n")
    given.add_argument("--set", default="FD001", choices=["FD001", "FD002", "FD003", "FD004"])
    given.add_argument("--work", type=Path, default=Path("runs-turbofan"))
    asked = given.parse_args()
    lives = prepare(asked.data, asked.set, asked.work / "engines")
    for name in ("recipe.toml", "device.toml"):
        shutil.copy(HERE / name, asked.work)
    keys, device = asked.work.resolve() / "keys", asked.work.resolve() / "device"
    os.environ |= {"EDGE_SFT_KEYS": str(keys), "EDGE_SFT_ROOT": str(device)}
    for line in STEPS if keys.is_dir() else ("keys init", *STEPS):
        print("\n$ edge-sft", line, flush=True)
        if subprocess.call([sys.executable, "-m", "edge_sft.cli.main", *line.split()], cwd=asked.work):
            sys.exit(1)
    print(f"\nThese three engines' true lives, by NASA: {lives[:3]}. Read {asked.work / 'runs' / 'report.html'}")


def prepare(data: Path, name: str, out: Path) -> list[float]:
    """Write one CSV an engine with its remaining life; return those of the test engines, NASA's file of its own."""
    lives = [float(line) for line in read(data, f"RUL_{name}").split()]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for side in ("train", "test"):
        engines = rows_by_engine(read(data, f"{side}_{name}"))
        for number, (unit, rows) in enumerate(engines.items()):
            left = lives[number] if side == "test" else 0.0
            with (out / f"{side}-{int(unit):03d}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow([*COLUMNS[1:], "rul"])
                writer.writerows([*row[1:], left + len(rows) - 1 - index] for index, row in enumerate(rows))
    return lives


def rows_by_engine(text: str) -> dict[str, list[list[str]]]:
    engines: dict[str, list[list[str]]] = defaultdict(list)
    for line in text.splitlines():
        row = line.replace(",", " ").split()
        if row and row[0] != "unit":
            engines[row[0]].append(row[: len(COLUMNS)])
    return engines


def read(data: Path, name: str) -> str:
    for suffix in (".txt", ".csv", ".csv.gz"):
        path = data / f"{name}{suffix}"
        if path.is_file():
            raw = path.read_bytes()
            return (gzip.decompress(raw) if suffix.endswith(".gz") else raw).decode()
    sys.exit(f"{data} holds no {name}.txt, .csv or .csv.gz. Give the folder of the C-MAPSS files: --data DIR")


if __name__ == "__main__":
    main()

"""Remaining life of turbofan engines: from NASA's files to a proved model, then one engine flown again.

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


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--data", type=Path, required=True, help="folder with train_FD00n, test_FD00n, RUL_FD00n")
    given.add_argument("--set", default="FD001", choices=["FD001", "FD002", "FD003", "FD004"])
    given.add_argument("--work", type=Path, default=Path("runs-turbofan"))
    given.add_argument("--quick", action="store_true", help="train a little, to see the road rather than the numbers")
    asked = given.parse_args()
    prepare(asked.data, asked.set, asked.work / "engines")
    recipe = (HERE / "recipe.toml").read_text(encoding="utf-8")
    if asked.quick:
        recipe = recipe.replace("[train]\n", "[train]\nsteps = 60\nfolds = 2\n")
    (asked.work / "recipe.toml").write_text(recipe, encoding="utf-8")
    shutil.copy(HERE / "device.toml", asked.work / "device.toml")
    engine = max((asked.work / "engines").glob("test-*.csv"), key=lambda file: file.stat().st_size)
    if not any((asked.work / "keys").glob("*")):
        edge_sft(asked.work, "keys", "init")
    edge_sft(asked.work, "check", "recipe.toml", "--html", "check.html")
    edge_sft(asked.work, "build", "recipe.toml", "--out", "runs")
    edge_sft(asked.work, "deploy", "runs/turbofan-0.1.0.edge", "--to", "local", "--profile", "device.toml")
    print(f"\nOne engine flown again, life left with its interval: {engine.stem}", flush=True)
    edge_sft(asked.work, "predict", "runs/turbofan-0.1.0.edge", str(engine.relative_to(asked.work)), lines=20)
    print(f"\nRead {asked.work / 'runs' / 'report.html'}")


def prepare(data: Path, name: str, out: Path) -> None:
    """Write one CSV an engine with its remaining life, which NASA tells of test engines in a file of its own."""
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

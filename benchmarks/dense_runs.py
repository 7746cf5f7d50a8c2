"""What `detection.py` and `segmentation.py` share: training on train and val, and one logged look at test.

``train`` never opens a test picture. ``score`` refuses a recipe that is not committed as it is.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from marked_sets import marked

from edge_sft import checkpoint as files
from edge_sft import recipe as recipes
from edge_sft.training.dense.fit import fit
from edge_sft.training.dense.scoring import score

HERE = Path(__file__).resolve().parent
WORK = Path(os.environ.get("EDGE_SFT_WORK", "/tmp/edge-sft-dense"))
LOOKS = HERE / "test_looks.jsonl"


class Printed:
    """Progress as lines: validations only."""

    def start(self, title: str, total: int) -> None:
        self.done, self.total = 0, total
        print(title, total, flush=True)

    def advance(self, units: int = 1, note: str = "") -> None:
        self.done += units
        if note:
            print(f"  {self.done}/{self.total} {note}", flush=True)


def recipe_of(file: Path, seed: int) -> recipes.Recipe:
    loaded = recipes.load(file)
    return loaded.model_copy(update={"train": loaded.train.model_copy(update={"seed": seed})})


def folder(name: str, kind: str, seed: int) -> Path:
    return WORK / f"{kind}_{name}_{seed}"


def train(name: str, kind: str, seed: int) -> dict[str, float]:
    """Train one model; returns validation's numbers. What was interrupted goes on."""
    file = HERE / f"{kind}_{name}.toml"
    data = marked(name, ("train", "val"))
    text = file.read_text()
    meta = fit(recipe_of(file, seed), data, folder(name, kind, seed), recipe_text=text, progress=Printed())
    print(json.dumps({"set": name, "seed": seed, "wall_s": meta.training["wall_s"], **meta.metrics["val"]}, indent=1))
    return meta.metrics["val"]


def look(name: str, kind: str, seed: int) -> dict[str, Any]:
    """Score a finished model on test, once more or for the first time, and log that."""
    file = HERE / f"{kind}_{name}.toml"
    commit = committed(file)
    numbers = score(folder(name, kind, seed), recipe_of(file, seed), marked(name, ("test",)), "test")
    weights = files.read_meta(folder(name, kind, seed)).weights_sha256
    return logged(name, kind, seed, "ours", numbers, commit, weights)


def logged(
    name: str, kind: str, seed: int, model: str, numbers: dict[str, float], commit: str, weights: str
) -> dict[str, Any]:
    """Append one look at test to the log."""
    row = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "set": f"{kind}/{name}",
        "seed": seed,
        "who": model,
        "config": commit,
        "weights": weights[:12],
        **numbers,
    }
    with LOOKS.open("a") as log:
        log.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))
    return row


def table(kind: str, columns: tuple[str, ...]) -> str:
    """Return the looks at test as a table: how many there were, the first beside the last."""
    looks: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for line in LOOKS.read_text().splitlines():
        row = json.loads(line)
        if row["set"].startswith(f"{kind}/"):
            looks.setdefault((row["set"].split("/")[1], row["who"], row["seed"]), []).append(row)
    lines = [
        f"| set | model | seed | looks | {' | '.join(columns)} |",
        f"|---|---|---|---|{'---|' * len(columns)}",
    ]
    for (name, who, seed), rows in sorted(looks.items()):
        cells = [_cell(rows[0].get(column), rows[-1].get(column)) for column in columns]
        lines.append(f"| {name} | {who} | {seed} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(first: float | None, last: float | None) -> str:
    if last is None:
        return "–"
    return f"{last:.3f}" if first in (None, last) else f"{last:.3f} (first {first:.3f})"


def committed(file: Path) -> str:
    """Return the commit that a recipe has its content from; ends the program where it was changed since."""
    if _git("status", "--porcelain", "--", file.name):
        raise SystemExit(f"{file.name} is not committed as it is: commit it before test is scored")
    return _git("log", "-1", "--format=%h", "--", file.name)


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

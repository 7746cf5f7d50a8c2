"""C-MAPSS FD001–FD004: remaining life of the test engines at their last cycle, beside boosted trees and the mean.

    python benchmarks/cmapss.py --cv               # group cross-validation on training engines; no test file is opened
    python benchmarks/cmapss.py --score            # trains (where not done yet) and scores the test engines once
    python benchmarks/cmapss.py --score --who ours # the same without the reference
    python benchmarks/cmapss.py --table            # prints results/cmapss.md from the rows that were kept

The configuration below is committed before ``--score`` is run. Every scoring appends to test_looks.jsonl; rows that are
there for this configuration are not scored again. ``--data`` names the folder, ``--work`` where checkpoints stay.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import protocol_cmapss as protocol

from edge_sft import checkpoint as files
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.sensors.dataset import Run
from edge_sft.metrics.remaining_life import coverage, nasa_score, rmse
from edge_sft.models.sensors import inference
from edge_sft.models.sensors.regressor import Regressor
from edge_sft.sensor_recipe import SensorRecipe
from edge_sft.training.sensors.features import table_of
from edge_sft.training.sensors.fit import fit_sensors

LOOKS = HERE / "test_looks.jsonl"
TABLE = HERE / "results" / "cmapss.md"
SEEDS = (0, 1, 2)
# Chosen by group cross-validation on training engines (results/cmapss_choice.md), the same for all four sets.
CONFIG: dict[str, dict[str, Any]] = {
    "window": {"length": 100, "min_valid": 0.01},
    "model": {"architecture": "mlp+tcn", "width": 64, "dropout": 0.1},
    "train": {"steps": 1500, "learning_rate": 0.01, "members": 1, "folds": 5, "channel_drop": 0.05},
}
VERSION = "4"
TREES = {"max_iter": 250, "learning_rate": 0.06, "max_leaf_nodes": 16, "min_samples_leaf": 40, "l2_regularization": 1.0}
TARGETS = {"FD001": 12.4, "FD002": 12.2, "FD003": 11.8, "FD004": 12.4}
PUBLISHED = {"FD001": "10.68–10.97", "FD002": "12.55", "FD003": "10.90", "FD004": "12.89"}

EXPLAINED = (
    "RUL is capped at 125 in training. *Clipped*: test truths are capped too (what papers print below 18.32 on FD002 or"
    " 19.53 on FD004 must be that, for no model capped at 125 can do better on raw truths). ± is the standard deviation"
    " over seeds. *Looks*: scorings of that set's test engines by that method so far; *first*: mean of the seeds of the"
    " first configuration ever scored. The trees are of the features before the TCN"
    " was added; `examples/turbofan` scores FD001's test engines too, on fewer channels, and is entered as such."
)
HEAD = (
    "| set | method | RMSE clipped | RMSE raw | NASA score clipped | raw | 90 % interval covers | its width | train s |"
    " seeds | looks | first RMSE | first coverage | target | best published found |"
)


def recipe_of(name: str, seed: int, *, age: bool) -> SensorRecipe:
    """The committed configuration for one set."""
    changes = {section: dict(values) for section, values in CONFIG.items()}
    changes["train"]["seed"] = seed
    conditions = protocol.six_conditions(name)
    return protocol.recipe(name, conditions=conditions, age=age, **changes)


def digest_of(recipe: SensorRecipe) -> str:
    """Twelve hex digits of the configuration, whatever the seed.

    VERSION tells what the recipe does not say. 2: after the first look (intervals of one net a machine covered .91 .93
    .96 .95) intervals are those of the nets' mean; 3: how much narrower that is no longer hangs on five engines' errors
    (FD001 .87, one look). The nets are the same in all three. 4: a TCN's nets beside the MLP's; the interval's factor
    by one moment an engine. Chosen by group cross-validation on training engines.
    """
    plain = recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": 0})})
    return hashlib.sha256((VERSION + plain.model_dump_json()).encode()).hexdigest()[:12]


def last_rows(run: NDArray[Any]) -> NDArray[np.int64]:
    """Positions of each run's last window."""
    return np.append(np.flatnonzero(run[1:] != run[:-1]), len(run) - 1)


def marks(value: NDArray[Any], life: NDArray[np.float64]) -> dict[str, float]:
    """Errors at the last window, against the clipped and the raw truth."""
    truth = np.minimum(life, protocol.CAP)
    found = {
        "rmse": rmse(value, truth),
        "rmse_raw": rmse(value, life),
        "score": nasa_score(value, truth),
        "score_raw": nasa_score(value, life),
    }
    return {key: round(number, 4) for key, number in found.items()}


def looked(rows: list[dict[str, Any]], **wanted: object) -> list[dict[str, Any]]:
    """Looks that agree with all of these."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def looks() -> list[dict[str, Any]]:
    """All looks at any test so far."""
    return [json.loads(line) for line in LOOKS.read_text().splitlines() if line.strip()] if LOOKS.exists() else []


def note(name: str, seed: int, who: str, config: str, numbers: dict[str, float]) -> None:
    """Append a look."""
    when = datetime.now(timezone.utc).replace(microsecond=0).isoformat()
    line = {"date": when, "set": f"cmapss_{name}", "seed": seed, "who": who, "config": config, **numbers}
    with LOOKS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def score(name: str, seed: int, who: tuple[str, ...], *, age: bool, data: Path, work: Path) -> None:
    """Train where not done yet, and score the test engines once."""
    recipe = recipe_of(name, seed, age=age)
    digest, suffix = digest_of(recipe), "" if age else ", no cycle count"
    runs = protocol.training_runs(name, root=data)
    tested = protocol.stopped_runs(name, root=data)
    out = work / f"{name}-{seed}-{'age' if age else 'plain'}-{digest}"
    if "ours" in who and not looked(looks(), set=f"cmapss_{name}", seed=seed, who=f"ours{suffix}", config=digest):
        meta = fit_sensors(recipe, protocol.dataset((*runs, *tested), data), out, recipe_text=protocol.toml_of(recipe))
        note(name, seed, f"ours{suffix}", digest, _ours(out, meta))
    if "trees" in who and not looked(looks(), set=f"cmapss_{name}", seed=seed, who=f"trees{suffix}", config=digest):
        trees(name, seed, f"trees{suffix}", digest, (recipe, out), (runs, tested))


def _ours(out: Path, meta: CheckpointMeta) -> dict[str, float]:
    kept = files.read_sensor_scores(out)
    last = last_rows(kept["test/run"])
    life = kept["test/rul"][last]
    truth = np.minimum(life, protocol.CAP)
    return {
        **marks(kept["test/value"][last].astype(np.float64), life),
        "coverage": round(coverage(kept["test/low"][last], kept["test/high"][last], truth), 4),
        "width": round(float(np.mean(kept["test/high"][last] - kept["test/low"][last])), 2),
        "seconds": meta.training["wall_s"],
        "parameters": meta.training["parameters"],
        "cv_rmse": round(meta.metrics["cv"]["rmse_near"], 4),
        "cv_coverage": round(meta.metrics["cv"]["coverage_near"], 4),
    }


def trees(
    name: str,
    seed: int,
    who: str,
    digest: str,
    made: tuple[SensorRecipe, Path],
    runs: tuple[tuple[Run, ...], tuple[Run, ...]],
) -> None:
    """Score boosted trees on the very features of our nets."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    module = inference.load(made[1])
    assert isinstance(module, Regressor)
    learn = table_of(module.front, made[0].windowing(), tuple(run for run in runs[0] if run.split == "train"))
    judge = table_of(module.front, made[0].windowing(), runs[1])
    last = last_rows(judge.run)
    began = time.monotonic()
    model = HistGradientBoostingRegressor(**TREES, max_features=0.3, random_state=seed)
    model.fit(learn.features, np.minimum(learn.life, protocol.CAP))
    value = model.predict(judge.features[last]).clip(0, protocol.CAP)
    note(name, seed, who, digest, {**marks(value, judge.life[last]), "seconds": round(time.monotonic() - began, 1)})
    if seed == 0 and not looked(looks(), set=f"cmapss_{name}", who="always the mean"):
        middle = float(np.minimum(learn.life, protocol.CAP).mean())
        note(name, 0, "always the mean", "", marks(np.full(len(last), middle), judge.life[last]))


def cross_validate(names: list[str], seeds: list[int], *, age: bool, data: Path) -> None:
    """Print what held-out training engines say of the configuration."""
    for name in names:
        for seed in seeds:
            recipe = recipe_of(name, seed, age=age)
            with tempfile.TemporaryDirectory() as folder:
                runs = protocol.dataset(protocol.training_runs(name, root=data), data)
                meta = fit_sensors(recipe, runs, Path(folder), recipe_text="")
            found = {key: round(value, 3) for key, value in meta.metrics["cv"].items()}
            print(name, seed, "age" if age else "no age", found, f"{meta.training['wall_s']:.0f} s", flush=True)


def table() -> str:
    """The table as Markdown, from what was kept."""
    rows = looks()
    lines = [
        "# C-MAPSS: remaining life at the last cycle of each test engine",
        "",
        "`python benchmarks/cmapss.py --score`  ",
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, one thread, {torch.__version__=!s}",
        "",
        EXPLAINED,
        "",
        HEAD,
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in protocol.SETS:
        for who in ("ours", "trees", "ours, no cycle count", "trees, no cycle count", "always the mean"):
            lines += list(_line(name, who, looked(rows, set=f"cmapss_{name}", who=who)))
    return "\n".join(lines) + "\n"


def _line(name: str, who: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    newest = looked(rows, config=rows[-1]["config"])
    oldest = looked(rows, config=rows[0]["config"])
    cells = [name, who, *(_cell(newest, key, digits) for key, digits in (("rmse", 2), ("rmse_raw", 2)))]
    cells += [_cell(newest, "score", 0), _cell(newest, "score_raw", 0)]
    cells += [_cell(newest, "coverage", 3), _cell(newest, "width", 1), _cell(newest, "seconds", 0)]
    first = f"{np.mean([row['rmse'] for row in oldest]):.2f}"
    mine = who == "ours"
    cells += [str(len(newest)), str(len(rows)), first, _cell(oldest, "coverage", 3)]
    cells += [str(TARGETS[name]) if mine else "", PUBLISHED[name] if mine else ""]
    yield "| " + " | ".join(cells) + " |"


def _cell(rows: list[dict[str, Any]], key: str, digits: int) -> str:
    values = [row[key] for row in rows if key in row]
    if not values:
        return ""
    spread = f" ± {np.std(values):.{digits}f}" if len(values) > 1 and key in ("rmse", "rmse_raw") else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cv", action="store_true")
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--sets", nargs="+", default=list(protocol.SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--who", nargs="+", choices=("ours", "trees"), default=["ours", "trees"])
    parser.add_argument("--age", choices=("with", "without", "both"), default="both")
    parser.add_argument("--data", type=Path, default=protocol.DATA)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edge-sft-cmapss")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ages = {"with": (True,), "without": (False,), "both": (True, False)}[options.age]
    if options.cv:
        for age in ages:
            cross_validate(options.sets, options.seeds, age=age, data=options.data)
    if options.score:
        for age in ages:
            for seed in options.seeds:
                for name in options.sets:
                    score(name, seed, tuple(options.who), age=age, data=options.data, work=options.work)
    if options.score or options.table:
        text = table()
        TABLE.write_text(text)
        print(text)


if __name__ == "__main__":
    main()

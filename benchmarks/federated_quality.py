"""Federated against alone and against central training on the pooled data: C-MAPSS as four plants, thermal pictures.

    python benchmarks/federated_quality.py partition                  # writes federated/infrared_solar_all.csv
    python benchmarks/federated_quality.py validate --task thermal    # trains, and prints what validation says
    python benchmarks/federated_quality.py score --task thermal       # scores the test splits once, prints the table
    python benchmarks/federated_quality.py together --task thermal    # the same models' test scores, over all seeds

C-MAPSS' four sets are four plants. The 20,000 thermal pictures go to four plants by class shares from a Dirichlet
distribution (federated/infrared_solar_all.csv), and each plant's camera has a gain and an offset of its own. Alone and
central are what `edge-sft train` does. The rounds are those of `edge-sft federate simulate` with every default:
compression with error feedback, vetting, the opening. Recipes, partition and what personalisation tries are committed
before ``score`` is run; each scoring appends to test_looks.jsonl.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import protocol_cmapss

from edge_sft import checkpoint as files
from edge_sft import strict_toml
from edge_sft.data.dataset import Dataset, Item
from edge_sft.federated import partition
from edge_sft.federated.learner import Learner
from edge_sft.federated.learners.pictures import PictureLearner
from edge_sft.federated.learners.remaining_life import RemainingLife
from edge_sft.federated.site_store import SiteStore
from edge_sft.progress import Silent
from edge_sft.recipe import Recipe
from edge_sft.sensor_recipe import SensorRecipe
from edge_sft.training.fit import fit
from edge_sft.training.merit import balanced_accuracy
from edge_sft.training.sensors.fit import fit_sensors

WORK = Path(os.environ.get("EDGE_SFT_WORK", "/tmp/edge-sft-federated"))
LOOKS = HERE / "test_looks.jsonl"
PARTITION = HERE / "federated" / "infrared_solar_all.csv"
PICTURES = HERE / ".." / ".." / "shared" / "data" / "infrared_solar" / "infrared_solar_all.npz"
RUN = "quality"
ALPHA, LEAST, PARTITION_SEED = 0.5, 40, 0
CAMERAS = {"site-1": (1.0, 0.0), "site-2": (0.8, 25.0), "site-3": (1.2, -30.0), "site-4": (0.65, 10.0)}
WAYS = ("alone", "global", "personal", "central")
DRAWS = 2000
SILENT = Silent()

# What `edge-sft init` writes for these pictures; of C-MAPSS what benchmarks/cmapss.py has, normalised by condition
# at all plants (two of them have one condition only, which it finds).
THERMAL = """
name = "thermal"
[task]
labels = [
  "No-Anomaly", "Cell", "Cell-Multi", "Cracking", "Diode", "Diode-Multi", "Hot-Spot", "Hot-Spot-Multi",
  "Offline-Module", "Shadowing", "Soiling", "Vegetation",
]
ok = ["No-Anomaly"]
[data]
path = "pictures"
[image]
size = 64
grey = true
[model]
dropout = 0.2
[augment]
rotate_deg = 5.0
scale = 0.1
[train]
learning_rate = 0.0005
class_balance = 0.5
patience = 6
seed = {seed}
"""
TURBOFANS: dict[str, dict[str, Any]] = {
    "window": {"length": 100, "min_valid": 0.01},
    "model": {"architecture": "mlp+tcn", "width": 64, "dropout": 0.1},
    "train": {"steps": 1500, "learning_rate": 0.01, "members": 1, "folds": 5, "channel_drop": 0.05},
}


@dataclass(frozen=True)
class Said:
    """What one model says of one site's samples of a split: for each its unit, the truth and the answer."""

    unit: NDArray[Any]
    truth: NDArray[Any]
    answer: NDArray[Any]


@dataclass(frozen=True)
class Task:
    """One comparison: sites, how to make a learner of one, how to train centrally, how to score."""

    sites: tuple[str, ...]
    text: Callable[[int], str]
    learner: Callable[[str, int, Path], Learner]
    central: Callable[[int, Path], None]
    said: Callable[[Path, str, str], Said]
    mark: Callable[[Said], float]
    better: int  # 1: more is better


# ---- C-MAPSS


def turbofan_recipe(seed: int) -> SensorRecipe:
    """The recipe of all four plants."""
    changes = {section: dict(values) for section, values in TURBOFANS.items()}
    changes["train"]["seed"] = seed
    return protocol_cmapss.recipe("turbofans", conditions=True, **changes)


def turbofan_text(seed: int) -> str:
    """The same, as it travels."""
    return protocol_cmapss.toml_of(turbofan_recipe(seed))


def turbofan_learner(site: str, seed: int, work: Path) -> Learner:
    """One plant's engines; the test engines are there for the checkpoints' scores."""
    recipe = turbofan_recipe(seed)
    runs = (*protocol_cmapss.training_runs(site), *protocol_cmapss.stopped_runs(site))
    return RemainingLife(recipe, protocol_cmapss.dataset(runs), turbofan_text(seed), work)


def turbofan_central(seed: int, out: Path) -> None:
    """All plants' engines in one training."""
    recipe = turbofan_recipe(seed)
    found = [
        run
        for site in protocol_cmapss.SETS
        for run in (*protocol_cmapss.training_runs(site), *protocol_cmapss.stopped_runs(site))
    ]
    fit_sensors(recipe, protocol_cmapss.dataset(tuple(found)), out, recipe_text=protocol_cmapss.toml_of(recipe))


def turbofan_said(checkpoint: Path, site: str, split: str) -> Said:
    """Validation: every window near the end; test: each engine's last window, as the set's rules have it."""
    kept = files.read_sensor_scores(checkpoint)
    run, life, value = (kept[f"{split}/{name}"] for name in ("run", "rul", "value"))
    chosen = np.char.startswith(run, site) & np.isfinite(life)
    if split == "test":
        last = np.append(run[1:] != run[:-1], True)
        chosen &= last
    else:
        chosen &= life <= 1.2 * protocol_cmapss.CAP
    return Said(run[chosen], np.minimum(life[chosen], protocol_cmapss.CAP), value[chosen].astype(np.float64))


def root_mean_square(said: Said) -> float:
    """The error in cycles."""
    return float(np.sqrt(np.mean((said.answer - said.truth) ** 2)))


# ---- thermal pictures


def thermal_recipe(seed: int) -> tuple[Recipe, str]:
    """The recipe of all plants, and its text."""
    text = THERMAL.replace("{seed}", str(seed))
    return strict_toml.loads(text, Recipe, source="thermal"), text


def cut() -> dict[str, str]:
    """Sample id → site, drawn anew; what counts is the committed file."""
    with np.load(PICTURES) as found:
        labels = {name_of(number): str(label) for number, label in zip(found["id"], found["y"], strict=True)}
    return partition.by_classes(labels, len(CAMERAS), ALPHA, PARTITION_SEED, least=LEAST)


def name_of(number: int) -> str:
    """A picture's id."""
    return f"{int(number):05d}"


def thermal_items(folder: Path) -> tuple[Item, ...]:
    """Every picture as its plant's camera would have taken it, written once."""
    import cv2

    sites = partition.read(PARTITION.read_text(), source=str(PARTITION))
    with np.load(PICTURES) as found:
        pictures, labels, splits, numbers = (found[key] for key in ("X", "y", "split", "id"))
    items = []
    for picture, label, split, number in zip(pictures, labels, splits, numbers, strict=True):
        name = name_of(number)
        gain, offset = CAMERAS[sites[name]]
        seen = np.rint(picture.astype(np.float64) * gain + offset).clip(0, 255).astype(np.uint8)
        path = folder / sites[name] / f"{name}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), seen)
        digest = hashlib.sha256(seen.tobytes() + name.encode()).hexdigest()
        items.append(Item(f"{sites[name]}/{name}.png", path, str(label), digest, str(split)))  # type: ignore[arg-type]
    return tuple(sorted(items, key=lambda item: item.id))


def thermal_dataset(site: str = "") -> Dataset:
    """One plant's pictures, or all."""
    folder = WORK / "pictures"
    items = thermal_items(folder)
    labels = thermal_recipe(0)[0].task.labels
    return Dataset(folder, labels, tuple(item for item in items if item.id.startswith(site)))


def thermal_learner(site: str, seed: int, work: Path) -> Learner:
    """One plant."""
    recipe, text = thermal_recipe(seed)
    return PictureLearner(recipe, thermal_dataset(site), text, work, SILENT)


def thermal_central(seed: int, out: Path) -> None:
    """All plants' pictures in one training."""
    recipe, text = thermal_recipe(seed)
    fit(recipe, thermal_dataset(), out, recipe_text=text)


def thermal_said(checkpoint: Path, site: str, split: str) -> Said:
    """What a checkpoint said of a plant's pictures."""
    kept = files.read_scores(checkpoint)[split]
    mine = np.array([name.startswith(f"{site}/") for name in kept.ids])
    return Said(np.array(kept.ids)[mine], kept.labels[mine], kept.probabilities[mine])


def balanced(said: Said) -> float:
    """Balanced accuracy in points."""
    return 100 * balanced_accuracy(said.answer.astype(np.float32), said.truth)


TASKS = {
    "turbofans": Task(
        protocol_cmapss.SETS,
        turbofan_text,
        turbofan_learner,
        turbofan_central,
        turbofan_said,
        root_mean_square,
        better=-1,
    ),
    "thermal": Task(
        tuple(CAMERAS),
        lambda seed: thermal_recipe(seed)[1],
        thermal_learner,
        thermal_central,
        thermal_said,
        balanced,
        better=1,
    ),
}


# ---- the loop


def train(task: Task, seed: int, work: Path) -> None:
    """Alone, rounds, global, personal, central; whatever is there already stays."""
    from edge_sft.federated.run_store import RunStore
    from edge_sft.federated.simulate import simulate

    began = time.monotonic()
    learners: dict[str, Learner] = {}

    def make(_: str, data: Path, cache: Path, __: Any) -> Learner:
        site = data.parent.name
        if site not in learners:
            learners[site] = task.learner(site, seed, cache)
        return learners[site]

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)

    store = RunStore.create(work / "runs", RUN, task.text(seed))
    for site in task.sites:
        (folder := store.folder / "sites" / site / "data").mkdir(parents=True, exist_ok=True)
        (folder.parent / "site.toml").write_text(f'site = "{site}"\ndata = "data"\n')
    simulate(store, say, make)
    state = store.load()
    assert state is not None
    for site in task.sites:
        learner = make("", store.folder / "sites" / site / "data", site_store(site, work).work, None)
        learner.load(state.weights)
        learner.checkpoint(work / site / "global", personal=False, progress=SILENT)
        meta = files.read_meta(checkpoint_of("personal", site, work))
        say(f"{site}: { {key: meta.training[key] for key in ('chosen', 'candidates')} }")
    task.central(seed, work / "central")
    say("central")


def site_store(site: str, work: Path) -> SiteStore:
    """A simulated site's folder of the run."""
    return SiteStore(work / "runs" / RUN / "sites" / site, RUN)


def checkpoint_of(way: str, site: str, work: Path) -> Path:
    """Where a way's model for a site lies."""
    store = site_store(site, work)
    found = {"central": work / "central", "personal": store.checkpoint, "alone": store.alone}
    return found.get(way, work / site / way)


def compare(task: Task, split: str, work: Path) -> list[dict[str, Any]]:
    """Every site's marks, and personal against alone and central, paired, with 95 % intervals."""
    rows = []
    for site in task.sites:
        said = {way: task.said(checkpoint_of(way, site, work), site, split) for way in WAYS}
        row: dict[str, Any] = {"site": site, "samples": len(said["alone"].truth)}
        row |= {way: round(task.mark(one), 4) for way, one in said.items()}
        for other in ("alone", "central"):
            row[f"personal-{other}"] = [round(value, 3) for value in paired(task, said["personal"], said[other])]
        rows.append(row)
    return rows


def together(task: Task, works: Sequence[Path]) -> list[dict[str, Any]]:
    """Every site's mean marks over seeds on the test split, and the mean gains with one interval over all seeds."""
    rows = []
    for site in task.sites:
        said = {way: [task.said(checkpoint_of(way, site, work), site, "test") for work in works] for way in WAYS}
        row: dict[str, Any] = {"site": site, "samples": len(said["alone"][0].truth)}
        row |= {way: round(float(np.mean([task.mark(one) for one in many])), 3) for way, many in said.items()}
        for other in ("alone", "central"):
            row[f"personal-{other}"] = paired_over(task, said["personal"], said[other])
        rows.append(row)
    return rows


def paired(task: Task, ours: Said, theirs: Said) -> tuple[float, float, float]:
    """How much better ours is (points, or per cent of their error), and the interval: bootstrap over units by class."""
    gain, low, high = paired_over(task, [ours], [theirs])
    return gain, low, high


def paired_over(task: Task, ours: Sequence[Said], theirs: Sequence[Said]) -> list[float]:
    """The mean gain over seeds and its interval; each draw takes the same units of every seed's models."""
    pairs = list(zip(ours, theirs, strict=True))
    assert all(list(one.unit) == list(ours[0].unit) for pair in pairs for one in pair)
    rng = np.random.default_rng(0)
    units, which = np.unique(ours[0].unit, return_inverse=True)
    members = [np.flatnonzero(which == number) for number in range(len(units))]
    strata = ours[0].truth[[one[0] for one in members]] if task.better > 0 else np.zeros(len(units))
    groups = [np.flatnonzero(strata == one) for one in np.unique(strata)]
    found = []
    for _ in range(DRAWS):
        drawn = np.concatenate([rng.choice(group, len(group)) for group in groups])
        index = np.concatenate([members[number] for number in drawn])
        found.append(np.mean([_gain(task, _take(mine, index), _take(other, index)) for mine, other in pairs]))
    low, high = np.quantile(found, (0.025, 0.975))
    return [float(np.mean([_gain(task, *pair) for pair in pairs])), float(low), float(high)]


def _take(said: Said, index: NDArray[np.int64]) -> Said:
    return Said(said.unit[index], said.truth[index], said.answer[index])


def _gain(task: Task, ours: Said, theirs: Said) -> float:
    mine, other = task.mark(ours), task.mark(theirs)
    return mine - other if task.better > 0 else 100 * (other - mine) / other


def note(name: str, seed: int, rows: Sequence[dict[str, Any]]) -> None:
    """Append a look at the test split."""
    when = datetime.now(timezone.utc).replace(microsecond=0).isoformat()
    config = hashlib.sha256((THERMAL + json.dumps(TURBOFANS)).encode()).hexdigest()[:12]
    with LOOKS.open("a") as file:
        for row in rows:
            line = {"date": when, "set": f"federated_{name}", "seed": seed, "who": "ours", "config": config, **row}
            file.write(json.dumps(line) + "\n")


def show(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = [
            f"{value[0]:+.2f} [{value[1]:+.2f}, {value[2]:+.2f}]" if isinstance(value, list) else str(value)
            for value in row.values()
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("partition", "validate", "score", "together"))
    parser.add_argument("--task", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.what == "partition":
        PARTITION.parent.mkdir(exist_ok=True)
        PARTITION.write_text(partition.write(cut()))
        print(f"{PARTITION}: {sum(1 for _ in csv.reader(PARTITION.open())) - 1} samples")
        return
    for name in options.task:
        if options.what == "together":
            rows = together(TASKS[name], [WORK / name / str(seed) for seed in options.seeds])
            print(f"{name}, seeds {options.seeds}, test\n{show(rows)}", flush=True)
            continue
        for seed in options.seeds:
            work = WORK / name / str(seed)
            work.mkdir(parents=True, exist_ok=True)
            train(TASKS[name], seed, work)
            rows = compare(TASKS[name], "val" if options.what == "validate" else "test", work)
            if options.what == "score":
                note(name, seed, rows)
            print(f"{name}, seed {seed}, {options.what}\n{show(rows)}", flush=True)


if __name__ == "__main__":
    main()

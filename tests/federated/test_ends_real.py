"""Simulations with real learners, from a recipe to the report: every side judged, compared and written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="no Flower: simulations are not proved")
pytest.importorskip("torch", reason="no PyTorch: real learners are not proved")

from edge_sft.checkpoint import read_meta
from edge_sft.federated import pooled, simulate
from edge_sft.federated.partition import write
from edge_sft.federated.report import of_run
from edge_sft.federated.report_verify import verify
from edge_sft.federated.site_store import SiteStore
from edge_sft.progress import Silent

PUMPS = """modality = "window"
name = "pumps"
[task]
kind = "regression"
cap = 40.0
unit = "h"
[data]
path = "rows"
time = "t"
group = 'file:^(.+)\\.csv$'
rul = "rul"
channels = [{ name = "load" }, { name = "wear" }]
[data.split]
test_groups = ["test-*"]
[window]
length = 12
min_valid = 0.05
[model]
architecture = "mlp"
width = 16
[train]
steps = 60
batch_size = 64
learning_rate = 0.01
folds = 3
[federated]
rounds = 2
cross_site = true
"""
PARTS = """name = "parts"
[task]
labels = ["scratch", "clean"]
ok = ["clean"]
[data]
path = "pictures"
[image]
size = 32
[train]
steps = 4
batch_size = 8
[federated]
rounds = 2
cross_site = true
"""


def pumps(folder: Path) -> Path:
    """Two plants with 8 pumps to learn from and 9 to be judged by, run to failure."""
    (folder / "rows").mkdir()
    cut = {}
    for number in range(34):
        rng = np.random.default_rng(number)
        life = int(rng.integers(45, 60))
        name = f"{'test' if number % 17 >= 8 else 'pump'}-{number:02d}.csv"
        rows = [
            f"{t},{rng.choice([10.0, 50.0])},{np.exp((t - life) / 15) * 5 + 0.2 * rng.normal():.4f},{life - 1 - t}"
            for t in range(life)
        ]
        (folder / "rows" / name).write_text("\n".join(["t,load,wear,rul", *rows]) + "\n")
        cut[name] = "kiel" if number < 17 else "linz"
    (folder / "cut.csv").write_text(write(cut))
    (folder / "recipe.toml").write_text(PUMPS)
    return folder / "recipe.toml"


def parts(folder: Path) -> Path:
    """Scratched and clean parts, enough of both in every split."""
    import cv2

    rng = np.random.default_rng(0)
    for split, number in (("train", 30), ("val", 16), ("test", 30)):
        for label in ("scratch", "clean"):
            (folder / "pictures" / split / label).mkdir(parents=True)
            for index in range(number):
                picture = rng.normal(110, 12, (40, 40)).clip(0, 255).astype(np.uint8)
                if label == "scratch":
                    cv2.line(picture, rng.integers(4, 36, 2).tolist(), rng.integers(4, 36, 2).tolist(), 190, 1)
                cv2.imwrite(str(folder / "pictures" / split / label / f"{split}{index:03d}.png"), picture)
    (folder / "recipe.toml").write_text(PARTS)
    return folder / "recipe.toml"


def simulated(recipe: Path, partition: str, sites: int) -> tuple[Path, dict[str, Any]]:
    what = simulate.Simulation(recipe, recipe.parent / "runs", "first", sites, partition, 0)
    store = simulate.prepare(what, Silent())
    simulate.simulate(store, lambda _: None)
    pooled.compare(store, Silent(), central=True, cross=True)
    facts: dict[str, Any] = json.loads((store.folder / "result" / "federated.json").read_text())
    return store.folder, facts


def check(folder: Path, facts: dict[str, Any], score: str) -> None:
    assert facts["score"] == score
    for site, row in facts["sites"].items():
        assert all(score in row[side]["test"] for side in ("alone", "global", "personal", "central"))
        own = SiteStore(folder / "sites" / site, "first")
        alone, personal = read_meta(own.alone), read_meta(own.checkpoint)
        assert row["alone"]["test"][score] == pytest.approx(alone.metrics["test"][score])
        assert row["personal"]["test"][score] == pytest.approx(personal.metrics["test"][score])
        assert facts["cross_site"][site][site] == pytest.approx(personal.metrics["test"][score], abs=1e-5)
        gap = row["paired"]["personal-alone"]["test"]
        here, there = row["personal"]["test"][score], row["alone"]["test"][score]
        better = here - there if score != "rmse" else (there - here) / there
        assert gap["difference"] == pytest.approx(better, abs=1e-5)
        assert gap["low"] <= gap["difference"] <= gap["high"]
    page = of_run(folder)
    assert "Each model at every site" in page
    assert "central: learnt from all sites" in page
    assert all(one.holds for one in verify(folder))


@pytest.mark.slow
def test_remaining_life(tmp_path: Path) -> None:
    folder, facts = simulated(pumps(tmp_path), str(tmp_path / "cut.csv"), 2)
    check(folder, facts, "rmse")


@pytest.mark.slow
def test_pictures(tmp_path: Path) -> None:
    folder, facts = simulated(parts(tmp_path), "dirichlet(5.0)", 2)
    check(folder, facts, "balanced_accuracy")

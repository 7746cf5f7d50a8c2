from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_sft import checkpoint as files
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.errors import DataError
from edge_sft.federated.learners.faults import FaultLearner
from edge_sft.models.sensors import inference
from edge_sft.progress import Silent
from edge_sft.sensor_recipe import SensorRecipe

LABELS = ("fine", "worn")
SILENT = Silent()


def recipe() -> SensorRecipe:
    return SensorRecipe.model_validate(
        {
            "modality": "window",
            "name": "gears",
            "task": {"kind": "classification", "labels": LABELS, "ok": ["fine"]},
            "data": {"path": ".", "channels": [{"name": "a"}, {"name": "b"}]},
            "window": {"length": 16, "hop": 16},
            "model": {"architecture": "mlp", "width": 8},
            "train": {"steps": 120, "batch_size": 32, "folds": 2, "channel_drop": 0.0},
        }
    )


def run(label: str, machine: int, split: str, offset: float) -> Run:
    rng = np.random.default_rng([machine, LABELS.index(label)])
    values = rng.normal(size=(160, 2)) * ([1.0, 1.0] if label == "fine" else [1.0, 6.0]) + offset
    name = f"{label}{machine}"
    return Run(
        name,
        name,
        name,
        split,  # type: ignore[arg-type]
        np.arange(160, dtype=np.float64),
        values,
        labels=np.full(160, LABELS.index(label)),
        sha256=f"{name}{offset}",
    )


def gears(offset: float = 0.0, splits: str = "train train train val test") -> SensorDataset:
    runs = [run(label, m, split, offset) for label in LABELS for m, split in enumerate(splits.split())]
    return SensorDataset(Path("gears"), ("a", "b"), LABELS, tuple(sorted(runs, key=lambda one: one.id)))


def learner(work: Path, offset: float = 0.0) -> FaultLearner:
    return FaultLearner(recipe(), gears(offset), "", work, SILENT)


def test_sites_with_other_sensors_learn_one_set_of_nets(tmp_path: Path):
    sites = [learner(tmp_path / "a"), learner(tmp_path / "b", 50.0)]
    assert sites[0].compatible.differences(sites[1].compatible) == []
    shared = sites[0].weights()
    for number in (1, 2):
        updates = []
        for site in sites:
            site.load(shared)
            told = site.train(round_number=number, rounds=2, steps=None, proximal=0.0, progress=SILENT)
            assert told.steps == 60
            updates.append(site.weights())
        shared = {name: (updates[0][name] + updates[1][name]) / 2 for name in shared}
    for site in sites:
        site.load(shared)
        judged = site.judge("val")
        assert judged.samples == site.samples["val"] * 10
        assert judged.numbers["vote_balanced_accuracy"] == 1.0


def test_the_same_calls_give_the_same_bits_and_a_pull_holds_back(tmp_path: Path):
    found = []
    for proximal in (0.0, 0.0, 1000.0):
        site = learner(tmp_path)
        before = site.weights()
        site.train(round_number=1, rounds=1, steps=20, proximal=proximal, progress=SILENT)
        found.append({name: value - before[name] for name, value in site.weights().items()})
    assert all((value == found[1][name]).all() for name, value in found[0].items())
    free, held = (sum(float(np.abs(value).sum()) for value in one.values()) for one in found[1:])
    assert held < free


def test_it_knows_its_parts(tmp_path: Path):
    site = learner(tmp_path)
    assert site.parts == {"0.nets.0.1.weight": "body", "0.nets.0.1.bias": "bias"} | {
        "0.nets.0.4.weight": "head",
        "0.nets.0.4.bias": "head",
    }
    with pytest.raises(DataError, match="no such net"):
        site.load({"x": np.zeros(1, dtype=np.float32)})


def test_a_site_ends_with_a_checkpoint_of_its_own(tmp_path: Path):
    site = learner(tmp_path / "work")
    site.train(round_number=1, rounds=1, steps=None, proximal=0.0, progress=SILENT)
    meta = site.checkpoint(tmp_path / "out", personal=True, progress=SILENT)
    merits = meta.training["candidates"]
    assert merits[meta.training["chosen"]] == max(merits.values())
    assert merits.keys() == {"alone", "global", "personal"}
    assert site.checkpoint(tmp_path / "out", personal=True, progress=SILENT) == meta
    assert "test/probabilities" in files.read_sensor_scores(tmp_path / "out")
    assert inference.load(tmp_path / "out") is not None


THREE = ("fine", "worn", "loose")
_SPREAD = {"fine": (1.0, 1.0), "worn": (1.0, 6.0), "loose": (6.0, 1.0)}


def three(work: Path, labels: tuple[str, ...]) -> FaultLearner:
    """A site that has some of three labels."""
    task = {"kind": "classification", "labels": THREE, "ok": ["fine"]}
    asked = SensorRecipe.model_validate({**recipe().model_dump(), "task": task})
    runs = []
    for label in labels:
        for machine, split in enumerate(["train", "train", "train", "val", "test"]):
            rng = np.random.default_rng([machine, THREE.index(label)])
            name, values = f"{label}{machine}", rng.normal(size=(160, 2)) * _SPREAD[label]
            told = np.full(160, THREE.index(label))
            time = np.arange(160, dtype=np.float64)
            runs.append(Run(name, name, name, split, time, values, labels=told, sha256=name))  # type: ignore[arg-type]
    runs.sort(key=lambda one: one.id)
    return FaultLearner(asked, SensorDataset(Path("g"), ("a", "b"), THREE, tuple(runs), partial=True), "", work, SILENT)


def test_a_plant_that_never_saw_a_fault_learns_it_from_the_others_and_keeps_it(tmp_path: Path):
    whole, lacking = three(tmp_path / "whole", THREE), three(tmp_path / "lacking", THREE[:2])
    assert whole.compatible.differences(lacking.compatible) == []
    shared = whole.weights()
    for number in (1, 2):
        updates = []
        for site in (whole, lacking):
            site.load(shared)
            site.train(round_number=number, rounds=2, steps=None, proximal=0.0, progress=SILENT)
            updates.append(site.weights())
        shared = {name: (updates[0][name] + updates[1][name]) / 2 for name in shared}
    lacking.load(shared)
    meta = lacking.checkpoint(tmp_path / "own", personal=True, progress=SILENT)
    assert meta.training["lacks"] == {split: ["loose"] for split in ("train", "val", "test")}
    assert meta.training["candidates"].keys() == {"global", "personal"}
    lacking.alone(tmp_path / "alone", SILENT)
    voted = {
        name: whole.judge_checkpoint(tmp_path / name, "test").numbers["vote_balanced_accuracy"]
        for name in ("own", "alone")
    }
    assert voted["own"] == 1.0
    assert voted["alone"] <= 2 / 3  # never says "loose"
    assert lacking.judge("test").numbers["vote_balanced_accuracy"] == 1.0  # over the labels that it has


def test_central_training_refuses_what_a_site_may_lack(tmp_path: Path):
    from edge_sft.training.sensors.fit import fit_sensors

    site = three(tmp_path, THREE[:2])
    with pytest.raises(DataError, match="no training window of 'loose'"):
        fit_sensors(site._recipe, replace(site._dataset, partial=False), tmp_path / "out", recipe_text="")

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_sft import checkpoint as files
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.errors import UserError
from edge_sft.federated.learners.anomaly import EncoderLearner
from edge_sft.progress import Silent
from edge_sft.sensor_recipe import SensorRecipe

SILENT = Silent()


def recipe(architecture: str = "encoder", channels: int = 2) -> SensorRecipe:
    return SensorRecipe.model_validate(
        {
            "modality": "window",
            "name": "pumps",
            "task": {"kind": "anomaly"},
            "data": {"path": ".", "channels": [{"name": f"c{number}"} for number in range(channels)]},
            "window": {"length": 10},
            "model": {"architecture": architecture, "bank_size": 32, "embedding": 4},
            "train": {"steps": 20, "batch_size": 32},
        }
    )


def run(number: int, split: str, channels: int) -> Run:
    rng = np.random.default_rng(number)
    values = np.sin(np.arange(300) / 8)[:, None] * 5 + rng.normal(size=(300, channels))
    label = np.zeros(300, dtype=np.int64)
    values[220:260, 0] += 25
    label[220:260] = 1
    name = f"pump{number}"
    time = np.arange(300, dtype=np.float64)
    return Run(name, name, name, split, time, values, labels=label, sha256=name)  # type: ignore[arg-type]


def pumps(first: int = 0, channels: int = 2) -> SensorDataset:
    runs = tuple(run(first + i, split, channels) for i, split in enumerate(("train", "train", "val", "test")))
    return SensorDataset(Path(), tuple(f"c{i}" for i in range(channels)), ("normal", "anomaly"), runs)


def learner(work: Path, first: int = 0, channels: int = 2) -> EncoderLearner:
    return EncoderLearner(recipe(channels=channels), pumps(first, channels), "", work)


def test_plants_with_other_channels_teach_one_encoder(tmp_path: Path):
    sites = [learner(tmp_path / "a"), learner(tmp_path / "b", 10, channels=3)]
    assert sites[0].compatible.differences(sites[1].compatible) == []
    shared = sites[0].weights()
    updates = []
    for site in sites:
        site.load(shared)
        assert site.train(round_number=1, rounds=2, steps=None, proximal=0.0, progress=SILENT).steps == 10
        updates.append(site.weights())
    assert updates[0].keys() == updates[1].keys()
    sites[0].load({name: (value + updates[1][name]) / 2 for name, value in updates[0].items()})
    judged = sites[0].judge("val")
    assert judged.samples == 1
    assert judged.score == judged.numbers["auroc"] > 0.9


def test_the_same_calls_give_the_same_bits(tmp_path: Path):
    found = []
    for _ in range(2):
        site = learner(tmp_path)
        site.train(round_number=2, rounds=2, steps=5, proximal=0.1, progress=SILENT)
        found.append(site.weights())
    assert all((value == found[1][name]).all() for name, value in found[0].items())


def test_statistics_of_norms_are_weights_that_may_stay(tmp_path: Path):
    parts = learner(tmp_path).parts
    assert set(parts.values()) == {"body", "bias", "norm", "head"}
    assert any(name.endswith("running_mean") and part == "norm" for name, part in parts.items())


def test_a_site_ends_with_a_checkpoint_of_its_own(tmp_path: Path):
    site = learner(tmp_path / "work")
    site.train(round_number=1, rounds=1, steps=None, proximal=0.0, progress=SILENT)
    meta = site.checkpoint(tmp_path / "out", personal=True, progress=SILENT)
    assert meta.training["chosen"] in ("global", "alone")
    assert meta.backbone == "encoder"
    assert site.checkpoint(tmp_path / "out", personal=True, progress=SILENT) == meta
    assert "default/bank" in files.read_sensor_scores(tmp_path / "out")


def test_methods_without_anything_learnt_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="learnt together"):
        EncoderLearner(recipe("bank"), pumps(), "", tmp_path)

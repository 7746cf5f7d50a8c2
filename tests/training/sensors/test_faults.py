"""Fault classification's training on bearings made here: found on machines never heard, honest about few of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edge_sft.data.dataset import SplitName
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.errors import DataError, UserError
from edge_sft.models.sensors.classifier import STATISTICS
from edge_sft.models.sensors.inference import load
from edge_sft.policy import Policy
from edge_sft.progress import Silent
from edge_sft.sensor_recipe import SensorRecipe
from edge_sft.training.sensors import faults
from edge_sft.training.sensors.examples import Examples
from edge_sft.training.sensors.fit import fit_sensors
from edge_sft.training.sensors.folds import balanced_weights, group_folds
from edge_sft.training.sensors.heads import Training, balanced_accuracy, fit_heads, left_out, predict, votes

RATE, LENGTH = 4000, 4096
LABELS = ("fine", "inner", "outer")
ORDERS = {"inner": 5.41, "outer": 3.58}


def recipe(**changes: dict[str, object]) -> SensorRecipe:
    given: dict[str, object] = {
        "modality": "window",
        "name": "bearing",
        "task": {"kind": "classification", "labels": LABELS, "ok": ["fine"]},
        "data": {"path": ".", "channels": [{"name": "a"}, {"name": "n", "unit": "rpm"}]},
        "window": {"period_s": 1 / RATE, "length": LENGTH, "hop": LENGTH, "hold_s": 1.0},
        "model": {"architecture": "spectral", "width": 8, "orders": tuple(ORDERS.values())},
        "train": {"steps": 80, "batch_size": 32, "folds": 2, "channel_drop": 0.0},
    }
    for section, values in changes.items():
        given[section] = {**given[section], **values}  # type: ignore[dict-item]
    return SensorRecipe.model_validate(given)


def run(label: str, machine: int, split: SplitName, n: int = 5 * LENGTH) -> Run:
    """A bearing: its own resonance, loudness and speed; the fault knocks at its order."""
    rng = np.random.default_rng([machine, LABELS.index(label)])
    rpm, tone = rng.uniform(1200, 1800), rng.uniform(600, 1600)
    t = np.arange(n) / RATE
    wave = 0.1 * rng.normal(size=n)
    if label in ORDERS:
        since = np.mod(t, 60 / (rpm * ORDERS[label]))
        wave += np.exp(-since * 600) * np.sin(2 * np.pi * tone * since)
    return Run(
        id=f"{label}{machine}",
        group=f"{label}{machine}",
        asset=f"{label}{machine}",
        split=split,
        time=t,
        values=np.stack([wave * rng.uniform(0.1, 10), np.full(n, rpm)], axis=1),
        labels=np.full(n, LABELS.index(label)),
        sha256=f"{label}{machine}",
    )


def bearings(splits: str = "train train train val test") -> SensorDataset:
    runs = [run(label, m, split) for label in LABELS for m, split in enumerate(splits.split())]  # type: ignore[arg-type]
    return SensorDataset(Path("bearings"), ("a", "n"), LABELS, tuple(sorted(runs, key=lambda one: one.id)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("checkpoint")
    fit_sensors(recipe(), bearings(), out, recipe_text="")
    return out


def test_machines_never_heard_are_named_right(checkpoint: Path) -> None:
    from edge_sft.checkpoint import read_meta, read_sensor_scores

    meta, scores = read_meta(checkpoint), read_sensor_scores(checkpoint)
    assert meta.metrics["test"]["balanced_accuracy"] >= 0.85
    assert meta.metrics["test"]["vote_balanced_accuracy"] == 1.0
    assert meta.metrics["test"]["recordings"] == 3
    assert meta.metrics["cross_validation"]["balanced_accuracy"] >= 0.7
    assert isinstance(meta.policy, Policy)
    assert set(scores) == {f"{split}/{name}" for split in ("val", "test") for name in _NAMES}
    assert scores["test/probabilities"].shape == (len(scores["test/run"]), 3)
    assert "fine (3)" in meta.training["notes"][-1]


_NAMES = ("run", "group", "label", "probabilities")


def test_the_checkpoint_says_what_the_training_said(checkpoint: Path) -> None:
    from edge_sft.checkpoint import read_sensor_scores
    from edge_sft.training.sensors.windows import windows_of

    windows, scores = windows_of(recipe(), bearings(), "test"), read_sensor_scores(checkpoint)
    with torch.no_grad():
        (said,) = load(checkpoint)(torch.from_numpy(windows.values), torch.from_numpy(windows.valid))
    np.testing.assert_allclose(said, scores["test/probabilities"], atol=1e-5)


def test_the_same_seed_gives_the_same_nets(checkpoint: Path, tmp_path: Path) -> None:
    from edge_sft.checkpoint import read_meta

    again = fit_sensors(recipe(), bearings(), tmp_path, recipe_text="")
    assert again.weights_sha256 == read_meta(checkpoint).weights_sha256


def test_without_validation_the_machines_left_out_choose_the_threshold() -> None:
    trained = faults.train(recipe(), bearings("train train test"), Silent())
    assert isinstance(trained.policy, Policy)
    assert trained.policy.threshold != 0.5
    assert set(trained.metrics) == {"cross_validation", "test"}


def test_slow_signals_are_told_apart_by_statistics() -> None:
    """Levels, no vibration: spectra, which know no level, are not better, and ``auto`` finds out."""
    runs = []
    for number, label in enumerate(LABELS):
        for machine, split in enumerate(("train", "train", "train", "test")):
            rng = np.random.default_rng([number, machine])
            values = rng.normal(size=(600, 2)) * 0.5 + [3 * number, -number]
            one = run(label, machine, split, 600)  # type: ignore[arg-type]
            runs.append(Run(**{**vars(one), "values": values, "time": np.arange(600.0)}))
    data = SensorDataset(Path("levels"), ("a", "b"), LABELS, tuple(runs))
    slow = recipe(
        data={"channels": [{"name": "a"}, {"name": "b"}]},
        window={"period_s": 1.0, "length": 64, "hop": 16},
        model={"architecture": "auto", "orders": ()},
        train={"channel_drop": 0.3},
    )
    trained = faults.train(slow, data, Silent())
    assert trained.facts["views"] == [STATISTICS]
    assert trained.metrics["test"]["vote_balanced_accuracy"] == 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"architecture": "bank"}}, "no fault classifier"),
        ({"model": {"base": "somewhere"}}, "not used"),
        ({"window": {"length": 16}}, "32 to"),
    ],
)
def test_recipes_that_cannot_be_followed(changes: dict[str, dict[str, object]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        faults.train(recipe(**changes), bearings("train train"), Silent())


def test_a_label_nobody_recorded_is_named() -> None:
    data = bearings("train train")
    kept = tuple(one for one in data.runs if not one.id.startswith("outer"))
    with pytest.raises(DataError, match="'outer'"):
        faults.train(recipe(), SensorDataset(data.root, data.channels, data.labels, kept), Silent())


def test_each_group_is_left_out_once_and_the_only_one_of_its_class_never() -> None:
    groups = np.repeat(np.arange(8), 5)
    labels = np.repeat([0, 0, 0, 1, 1, 1, 1, 2], 5)
    folds = group_folds(labels, groups, 3, seed=0)
    assert len(folds) == 3
    assert np.stack(folds).sum(0).tolist() == [1] * 35 + [0] * 5
    for out in folds:
        assert not set(groups[out]) & set(groups[~out])
        assert set(labels[~out]) == {0, 1, 2}


def test_nothing_can_be_left_out_of_one_machine_a_class() -> None:
    labels = np.array([0, 0, 1, 1])
    assert group_folds(labels, labels, 5, seed=0) == []
    examples = Examples((torch.randn(4, 3),), labels, labels, labels)
    said, heard = left_out(examples, _how(2), 5)
    assert not heard.any()
    assert said.shape == (1, 4, 2)


def test_classes_weigh_alike_and_machines_within_them() -> None:
    labels, groups = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 2])
    weights = balanced_weights(labels, groups)
    np.testing.assert_allclose(weights / weights.sum(), [1 / 12, 1 / 12, 1 / 12, 1 / 4, 1 / 2])
    right = np.eye(2)[[0, 1, 1, 0, 1]]
    assert balanced_accuracy(right, labels, groups) == pytest.approx((1 / 3 + 1) / 4 + 1 / 2)


def test_windows_of_a_recording_vote() -> None:
    said = np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8]])
    voted, labels, runs = votes(said, np.array([0, 0, 0, 1]), np.array([4, 4, 4, 7]))
    np.testing.assert_allclose(voted, [[1.7 / 3, 1.3 / 3], [0.2, 0.8]])
    assert (labels.tolist(), runs.tolist()) == ([0, 1], [4, 7])


def test_a_feature_that_never_moves_says_nothing() -> None:
    features = torch.cat([torch.randn(60, 1), torch.full((60, 1), 7.0)], dim=1)
    labels = (features[:, 0] > 0).long().numpy()
    groups = np.arange(60) % 4 + 4 * labels
    heads = fit_heads(Examples((features,), labels, groups, groups), _how(2))
    assert heads[0].scale[1] == 0
    moved = Examples((features + torch.tensor([0.0, 100.0]),), labels, groups, groups)
    said = predict(heads, moved)[0]
    assert balanced_accuracy(said, labels, groups) > 0.9


def _how(labels: int) -> Training:
    return Training(labels, 8, 1, 0.0, 60, 32, 1e-2, 0.01, 0)

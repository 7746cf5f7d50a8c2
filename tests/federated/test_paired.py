from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_sft import checkpoint as files
from edge_sft.federated.paired import gain, marks, told


def lives(folder: Path, spread: float, machines: int = 20) -> Path:
    """What a model of remaining life said of some machines; the spread of its error is given."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    run = np.repeat([f"m{number:02d}" for number in range(machines)], 10)
    life = np.tile(np.arange(10.0), machines)
    value = (np.minimum(life, 8) + spread * rng.normal(size=len(life))).astype(np.float32)
    scores = {"cap": np.float64(8.0)}
    for split in ("val", "test"):
        scores |= {f"{split}/run": run, f"{split}/rul": life, f"{split}/value": value}
    files.write_sensor_scores(folder, scores)
    return folder


def pictures(folder: Path, wrong: int, parts: int = 40) -> Path:
    """What a model said of 40 parts, two pictures each; some pictures of the first class are wrong."""
    folder.mkdir()
    labels = np.repeat(np.arange(parts) % 2, 2)
    said = labels.copy()
    said[np.flatnonzero(labels == 0)[:wrong]] = 1
    ids = [f"{part:02d}-{side}" for part in range(parts) for side in "ab"]
    scores = files.Scores(ids, labels, np.eye(2, dtype=np.float32)[said], np.ones(len(labels), dtype=np.float32))
    files.write_scores(folder, {"test": scores})
    return folder


def test_less_error_is_a_share_of_the_others_and_its_interval_is_by_machine(tmp_path: Path):
    groups = {f"m{number:02d}": f"m{number:02d}" for number in range(20)}
    better, worse = lives(tmp_path / "a", 1.0), lives(tmp_path / "b", 2.0)
    found = told({"personal": better, "alone": worse}, groups)
    assert set(found) == {
        f"paired/personal-alone/{split}/{name}" for split in ("val", "test") for name in ("difference", "low", "high")
    }
    assert found["paired/personal-alone/test/difference"] == pytest.approx(0.5, abs=1e-6)
    assert found["paired/personal-alone/test/low"] <= 0.5 <= found["paired/personal-alone/test/high"]
    back = gain(marks(worse, "test", groups), marks(better, "test", groups))
    assert back is not None
    assert back.difference == pytest.approx(-1.0, abs=1e-6)


def test_pictures_of_a_part_are_drawn_together(tmp_path: Path):
    one, other = pictures(tmp_path / "a", 2), pictures(tmp_path / "b", 8)
    apart = gain(marks(one, "test", {}), marks(other, "test", {}))
    parts = {f"{part:02d}-{side}": f"{part:02d}" for part in range(40) for side in "ab"}
    together = gain(marks(one, "test", parts), marks(other, "test", parts))
    assert apart is not None
    assert together is not None
    assert apart.difference == together.difference == pytest.approx(6 / 40 / 2)
    assert together.high - together.low > apart.high - apart.low, "pictures of a part were taken for independent"
    assert marks(one, "val", parts) is None


def test_too_few_machines_have_no_interval(tmp_path: Path):
    few = lives(tmp_path / "a", 1.0, machines=5), lives(tmp_path / "b", 2.0, machines=5)
    assert told({"personal": few[0], "alone": few[1]}, {}) == {}
    assert marks(tmp_path, "test", {}) is None


def test_a_class_of_one_picture_decides_nothing(tmp_path: Path):
    one, other = pictures(tmp_path / "a", 2), pictures(tmp_path / "b", 8)
    rare = {f"{part:02d}-{side}": "all of them" for part in range(1, 40, 2) for side in "ab"}
    assert gain(marks(one, "test", rare), marks(other, "test", rare)) is None


def test_the_same_scores_as_the_checkpoints_own(tmp_path: Path):
    rng = np.random.default_rng(0)
    label, group = rng.integers(0, 3, 200), np.array([f"g{one}" for one in rng.integers(0, 12, 200)])
    probabilities = rng.dirichlet([1, 1, 1], 200).astype(np.float32)
    named = {"run": group, "group": group, "label": label, "probabilities": probabilities}
    files.write_sensor_scores(tmp_path, {f"test/{name}": value for name, value in named.items()})
    found = marks(tmp_path, "test", {})
    assert found is not None
    from edge_sft.training.sensors.heads import balanced_accuracy

    _, number = np.unique(group, return_inverse=True)
    expected = balanced_accuracy(probabilities.astype(np.float64), label, number)
    assert found.worth(np.ones((1, len(found.units))))[0] == pytest.approx(expected)

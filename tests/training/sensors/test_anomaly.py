from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_sft import checkpoint
from edge_sft.alarms import Case
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.errors import DataError, UserError
from edge_sft.models.sensors.encoder import patches
from edge_sft.models.sensors.inference import load
from edge_sft.policy import AlarmRule, AnomalyPolicy
from edge_sft.progress import Silent
from edge_sft.report import sensor_scores
from edge_sft.sensor_recipe import SensorRecipe
from edge_sft.training.sensors.anomaly import assemble, train
from edge_sft.training.sensors.anomaly_encoder import healthy_stretches, learn
from edge_sft.training.sensors.commissioned import asker, follow, judge_run, numbers, pointwise
from edge_sft.training.sensors.fit import fit_sensors
from edge_sft.training.sensors.windows import cut_run

CHANNELS = ("load", "temp", "vib")


def recipe(**more: Any) -> SensorRecipe:
    given: dict[str, Any] = {
        "modality": "window",
        "name": "pumps",
        "task": {"kind": "anomaly"},
        "data": {"path": ".", "channels": [{"name": name} for name in CHANNELS]},
        "window": {"period_s": 1.0, "length": 10},
        "model": {"architecture": "bank", "bank_size": 64},
    }
    return SensorRecipe.model_validate({**given, **more})


def many(count: int) -> dict[str, Any]:
    return {"path": ".", "channels": [{"name": f"c{number}"} for number in range(count)]}


def run(name: str, split: str, *, rows: int = 400, fault: int | None = 300, labelled: bool = True) -> Run:
    """Temperature follows the load; in the fault it does not any more."""
    rng = np.random.default_rng(len(name) + sum(map(ord, name)))
    load = np.sin(np.arange(rows) / 8)
    values = np.stack([load, 50 + 5 * load, 20 + 0 * load], axis=1) + rng.standard_normal((rows, 3)) * [0.1, 0.5, 1.0]
    label = np.zeros(rows, dtype=np.int64)
    if fault is not None:
        values[fault : fault + 60, 1] += 15
        label[fault : fault + 60] = 1
    return Run(
        id=name,
        group=name,
        asset=name,
        split=split,  # type: ignore[arg-type]
        time=np.arange(rows, dtype=np.float64),
        values=values,
        labels=label if labelled else None,
        sha256=name,
    )


def dataset(**more: Any) -> SensorDataset:
    runs = [run(f"pump{i}", split, **more) for i, split in enumerate(("train", "train", "val", "test"))]
    return SensorDataset(Path(), CHANNELS, ("normal", "anomaly"), tuple(runs))


def test_each_run_is_judged_by_its_own_beginning() -> None:
    trained = train(recipe(), dataset(), Silent())
    for split in ("train", "val", "test"):
        found = trained.metrics[split]
        assert found["auroc"] > 0.95
        assert found["missed"] < 0.2
        assert found["false"] < 0.2
        assert found["f1"] > found["always_alarm_f1"]
        assert found["commissioned"] == found["runs"]
    assert trained.architecture == "bank"
    assert isinstance(trained.policy, AnomalyPolicy)
    assert trained.policy.threshold is None  # no machine's threshold travels


def test_the_scores_are_what_the_report_reads() -> None:
    trained = train(recipe(), dataset(), Silent())
    read = sensor_scores.anomaly(trained.scores, name="pumps")
    assert read.split == "test"
    assert [one.name for one in read.runs] == ["pump3"]
    one = read.runs[0]
    assert one.contributions.shape == (len(one.time), 3)
    assert one.commissioning.sum() == pytest.approx(len(one.time) / 3, abs=1)
    assert not one.label[one.commissioning].any()


def test_defaults_of_the_local_inputs_fit_the_task_and_are_finite() -> None:
    trained = train(recipe(), dataset(), Silent())
    for spec in trained.task.inputs[2:]:
        found = trained.scores[f"default/{spec.name}"]
        assert found.shape == spec.shape
        assert found.dtype == np.float32
        assert np.isfinite(found).all()
    assert (trained.scores["default/std"] > 0).all()


def test_a_checkpoint_gives_the_same_network_back(tmp_path: Path) -> None:
    meta = fit_sensors(recipe(), dataset(), tmp_path / "ck", recipe_text="", progress=Silent())
    assert meta.task.kind == "anomaly"
    scores = checkpoint.read_sensor_scores(tmp_path / "ck")
    module = load(tmp_path / "ck")
    again = judge_run(asker(module, meta.task), meta.task, meta.windowing, meta.policy, run("pump3", "test"))
    np.testing.assert_array_equal(again.score, scores["test/score"])
    assert again.threshold == scores["test/threshold"][0]


def test_the_method_is_chosen_on_the_training_machines() -> None:
    short = {"steps": 5, "batch_size": 16}
    trained = train(recipe(model={"architecture": "auto", "bank_size": 64}, train=short), dataset(), Silent())
    tried = trained.facts["tried"]
    assert set(tried) == {"bank", "t2q", "encoder"}
    assert tried[trained.architecture] >= max(tried.values()) - 0.01
    unlabelled = train(recipe(model={"architecture": "auto"}), dataset(fault=None, labelled=False), Silent())
    assert unlabelled.architecture == "bank"
    assert "auroc" not in unlabelled.metrics["val"]
    assert unlabelled.metrics["val"]["cases_a_day"] >= 0


def test_t2q_is_a_model_like_the_other() -> None:
    trained = train(recipe(model={"architecture": "t2q"}), dataset(), Silent())
    assert trained.architecture == "t2q"
    assert trained.policy.commissioning.method == "components"  # type: ignore[union-attr]
    assert trained.metrics["test"]["auroc"] > 0.9


def test_the_encoder_is_learnt_from_healthy_rows_and_rebuilt(tmp_path: Path) -> None:
    asked = recipe(model={"architecture": "encoder", "embedding": 4, "bank_size": 64}, train={"steps": 60})
    meta = fit_sensors(asked, dataset(), tmp_path / "ck", recipe_text="", progress=Silent())
    assert meta.backbone == "encoder"
    assert meta.metrics["test"]["auroc"] > 0.95
    assert isinstance(meta.policy, AnomalyPolicy)
    assert meta.policy.commissioning.method == "core-set"
    scores = checkpoint.read_sensor_scores(tmp_path / "ck")
    judged = judge_run(
        asker(load(tmp_path / "ck"), meta.task), meta.task, meta.windowing, meta.policy, run("pump3", "test")
    )
    np.testing.assert_array_equal(judged.score, scores["test/score"])


def test_learning_brings_neighbours_in_time_together_and_takes_no_abnormal_row() -> None:
    asked = recipe(model={"architecture": "encoder", "embedding": 4}, train={"steps": 80, "batch_size": 64})
    runs = dataset().split("train")
    healthy = healthy_stretches(asked, runs)
    assert sum(map(len, healthy)) < sum(len(cut_run(asked.windowing(), one)) for one in runs)
    encoder = learn(asked, healthy, Silent())
    one = healthy[0]
    given = [
        torch.from_numpy(part) for part in (one.values, one.valid, one.values.mean((0, 1)), one.values.std((0, 1)))
    ]
    with torch.inference_mode():
        seen = encoder(patches(*given, 10)).reshape(len(one), 3, 4)[:, 0]  # the load: a sine of 50 steps
    near, far = (seen[1:] - seen[:-1]).norm(dim=1).mean(), (seen[25:] - seen[:-25]).norm(dim=1).mean()
    assert 2 * near < far
    again = learn(asked, healthy, Silent())
    assert all(
        torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_a_long_run_teaches_by_some_stretches() -> None:
    asked = recipe(model={"architecture": "encoder"})
    (made,) = healthy_stretches(asked, [run("pump1", "train", rows=60_000, fault=None)])
    assert 15_000 < len(made) < 25_000
    assert made.end[-1] > 59_000


def test_rows_labelled_abnormal_are_never_taken_for_healthy() -> None:
    early = run("pump9", "test", fault=60)
    task, module, policy, _ = assemble(recipe(), "bank")
    judged = judge_run(asker(module, task), task, recipe().windowing(), policy, early)
    assert not (judged.commissioning & (judged.label == 1)).any()
    assert judged.time[judged.commissioning][-1] < 60


def test_a_run_too_short_to_commission_is_said_and_not_judged() -> None:
    short = SensorDataset(
        Path(), CHANNELS, ("normal", "anomaly"), (run("a", "train"), run("b", "val", rows=40, fault=None))
    )
    trained = train(recipe(), short, Silent())
    assert trained.metrics["val"]["commissioned"] == 0
    assert any("longer healthy run" in reason for reason in trained.facts["not_commissioned"])
    assert np.isnan(trained.scores["val/threshold"]).all()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model": {"architecture": "mlp"}}, "no anomaly detector"),
        ({"window": {"period_s": 1.0, "length": 10, "age": True}}, "window.age"),
        ({"data": many(200), "model": {"architecture": "encoder"}}, "model.embedding"),
        ({"model": {"bank_size": 8, "neighbours": 9}}, "neighbours"),
        ({"model": {"base": "other"}}, "model.base"),
        (
            {
                "normalise": {"by": "condition"},
                "data": {"path": ".", "channels": [{"name": name} for name in CHANNELS], "conditions": ["load"]},
            },
            "normalise.by",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_in_words(more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        train(recipe(**more), dataset(), Silent())


def test_nothing_long_enough_to_train_on_is_refused() -> None:
    few = SensorDataset(Path(), CHANNELS, (), (run("a", "train", rows=20, fault=None),))
    with pytest.raises(DataError):
        train(recipe(), few, Silent())


def test_alarms_are_the_devices_own_logic() -> None:
    score = np.array([0.5, 1.2, 1.2, 1.2, 0.95, 0.5, 0.5, 1.5, np.nan, 0.1])
    time = np.arange(10, dtype=np.float64)
    every = np.ones(10, dtype=np.bool_)
    alarmed, opened = follow(score, time, 1.0, AlarmRule(on_after_s=2, off_after_s=1), every)
    assert alarmed.tolist() == [False, False, False, True, True, True, False, False, False, False]
    assert opened == 1
    assert follow(score, time, float("nan"), AlarmRule(), every)[1] == 0
    assert not Case().open


def test_pointwise_numbers_are_those_of_the_tables() -> None:
    truth = np.array([True, True, False, False, False])
    found = pointwise(truth, np.array([True, False, True, False, False]))
    assert found == {"f1": 0.5, "missed": 0.5, "false": pytest.approx(1 / 3)}
    assert numbers([]) == {"runs": 0.0, "windows": 0.0, "commissioned": 0.0}

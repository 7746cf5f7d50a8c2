from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_sft import checkpoint as files
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.errors import DataError, UserError
from edge_sft.models.sensors import inference
from edge_sft.sensor_recipe import SensorRecipe
from edge_sft.training.sensors.fit import fit_sensors, training_key
from edge_sft.training.sensors.windows import windows_of

CAP = 40.0
CHANNELS = ("load", "wear", "noise")


def recipe(**changes: dict[str, object]) -> SensorRecipe:
    """Pumps that wear out under two loads."""
    sections: dict[str, dict[str, object]] = {
        "task": {"kind": "regression", "cap": CAP, "unit": "h"},
        "data": {"path": "x", "channels": [{"name": name} for name in CHANNELS], "conditions": ["load"]},
        "window": {"length": 12, "min_valid": 0.05, "age": True, "age_unit": 100},
        "normalise": {"by": "condition", "clusters": 4},
        "model": {"width": 16},
        "train": {"steps": 150, "batch_size": 128, "learning_rate": 0.01, "folds": 3},
    }
    for section, values in changes.items():
        sections[section] = {**sections[section], **values}
    return SensorRecipe.model_validate({"modality": "window", "name": "pumps", **sections})


def pump(number: int, split: str, *, shift: float = 0.0) -> Run:
    rng = np.random.default_rng(number)
    life = int(rng.integers(50, 90))
    time = np.arange(life, dtype=np.float64)
    load = rng.choice([10.0, 50.0], life)
    wear = np.exp((time - life) / 15) * 5 + 3 * load + shift + 0.2 * rng.normal(size=life)
    values = np.stack([load, wear, rng.normal(size=life)], axis=1)
    name = f"p{number:02d}"
    return Run(name, name, name, split, time, values, rul=life - 1 - time, sha256=f"{number:064x}")  # type: ignore[arg-type]


def pumps(count: int = 12, *, shift: float = 0.0, first: int = 0) -> SensorDataset:
    splits = ["train"] * (count - 4) + ["val", "val", "test", "test"] if count > 4 else ["train"] * count
    runs = tuple(pump(first + number, split, shift=shift) for number, split in enumerate(splits))
    return SensorDataset(Path("pumps"), CHANNELS, (), runs)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rul") / "checkpoint"
    fit_sensors(recipe(), pumps(), out, recipe_text="# pumps\n")
    return out


def test_it_learns_and_says_how_sure_it_is(base: Path):
    meta = files.read_meta(base)
    val = meta.metrics["val"]
    assert val["rmse"] < 0.5 * val["rmse_of_mean"]
    assert 0.75 <= meta.metrics["cv"]["coverage_near"] <= 0.98
    assert meta.backbone == "mlp+tcn"
    assert meta.policy.kind == "regression"
    assert (base / files.RECIPE).read_text() == "# pumps\n"


def test_the_checkpoint_gives_the_same_numbers_as_its_scores(base: Path):
    module = inference.load(base)
    windows = windows_of(recipe(), pumps(), "test")
    with torch.no_grad():
        value, quantiles = module(torch.from_numpy(windows.values), torch.from_numpy(windows.valid))
    kept = files.read_sensor_scores(base)
    assert value.numpy() == pytest.approx(kept["test/value"], abs=1e-3)
    assert quantiles[:, 0].numpy() == pytest.approx(kept["test/low"], abs=1e-3)
    assert (kept["test/low"] <= kept["test/value"] + 1e-4).all()
    assert (kept["test/value"] <= kept["test/high"] + 1e-4).all()
    assert sorted(set(kept["test/run"])) == ["p10", "p11"]


def test_the_condition_is_found_on_every_row(base: Path):
    windows = windows_of(recipe(), pumps(), "val")
    normaliser = inference.load(base).front.normalise
    found = normaliser.condition(torch.from_numpy(windows.values), torch.from_numpy(windows.valid)).numpy()
    full = windows.valid[..., 0] > 0
    low, high = (found[full & (windows.values[..., 0] == load)] for load in (10.0, 50.0))
    assert len(np.unique(low)) == len(np.unique(high)) == 1
    assert low[0] != high[0]


def test_a_finished_training_is_returned_and_another_is_made_anew(base: Path):
    before = (base / files.META).read_bytes()
    fit_sensors(recipe(), pumps(), base, recipe_text="# pumps\n")
    assert (base / files.META).read_bytes() == before
    assert training_key(recipe(train={"seed": 1}), pumps()) != training_key(recipe(), pumps())
    assert training_key(recipe(data={"path": "elsewhere"}), pumps()) == training_key(recipe(), pumps())


def test_the_same_training_gives_the_same_weights(base: Path, tmp_path: Path):
    again = fit_sensors(recipe(), pumps(), tmp_path, recipe_text="")
    assert again.weights_sha256 == files.read_meta(base).weights_sha256


def test_missing_channels_short_windows_and_nan_bursts_still_give_an_estimate(base: Path):
    module = inference.load(base)
    windows = windows_of(recipe(), pumps(), "test")
    values, valid = torch.from_numpy(windows.values).clone(), torch.from_numpy(windows.valid).clone()
    for channel in range(3):
        gone, mask = values.clone(), valid.clone()
        gone[..., channel], mask[..., channel] = 0, 0
        with torch.no_grad():
            assert all(torch.isfinite(out).all() for out in module(gone, mask))


@pytest.mark.parametrize("architecture", ["mlp", "tcn"])
def test_one_kind_of_net_alone_does_as_well(architecture: str, tmp_path: Path):
    wanted = recipe(model={"architecture": architecture}, train={"steps": 100})
    meta = fit_sensors(wanted, pumps(), tmp_path, recipe_text="")
    assert meta.backbone == architecture
    assert meta.metrics["val"]["rmse"] < 0.6 * meta.metrics["val"]["rmse_of_mean"]
    assert len(inference.load(tmp_path).members.nets) == 3


def test_one_machine_is_not_enough():
    with pytest.raises(DataError, match="has 1 training machines"):
        fit_sensors(recipe(), pumps(1), Path("nowhere"), recipe_text="")


def test_nothing_to_train_on_is_said():
    empty = SensorDataset(Path("pumps"), CHANNELS, (), ())
    with pytest.raises(DataError, match="no runs to train on"):
        fit_sensors(recipe(), empty, Path("nowhere"), recipe_text="")


def test_an_architecture_for_faults_is_refused():
    with pytest.raises(UserError, match="does not estimate a life"):
        fit_sensors(recipe(model={"architecture": "spectral"}), pumps(), Path("nowhere"), recipe_text="")


def test_machines_that_did_not_fail_do_not_teach(tmp_path: Path):
    runs = pumps().runs
    unknown = replace(pump(99, "train"), rul=None, failed=False)
    meta = fit_sensors(
        recipe(train={"steps": 5}),
        SensorDataset(Path("pumps"), CHANNELS, (), (*runs, unknown)),
        tmp_path,
        recipe_text="",
    )
    assert meta.metrics["cv"]["machines"] == 8


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of one kind of nets: it is fine-tuned in a moment."""
    out = tmp_path_factory.mktemp("base") / "checkpoint"
    fit_sensors(recipe(model={"architecture": "mlp"}), pumps(), out, recipe_text="")
    return out


class TestFromBase:
    def fine(self, base: Path, dataset: SensorDataset, out: Path, **train: object) -> files.CheckpointMeta:
        wanted = recipe(model={"base": str(base)}, train={"steps": 60, **train})
        return fit_sensors(wanted, dataset, out, recipe_text="")

    def test_one_machine_keeps_the_base(self, simple: Path, tmp_path: Path):
        meta = self.fine(simple, pumps(1, first=50), tmp_path)
        assert meta.training["kept_base"]
        assert "too few" in meta.training["why"]
        assert meta.weights_sha256 == files.read_meta(simple).weights_sha256

    def test_machines_that_are_like_the_bases_keep_it_or_do_no_worse(self, simple: Path, tmp_path: Path):
        meta = self.fine(simple, pumps(6, first=60), tmp_path)
        errors = meta.training["held_out_errors"]
        share = 1 - meta.training["base_share"]
        assert errors[f"{share:g}"] <= errors["0"]

    def test_machines_of_another_kind_move_it(self, simple: Path, tmp_path: Path):
        other = pumps(10, shift=4.0, first=70)
        meta = self.fine(simple, other, tmp_path, steps=150, learning_rate=0.05)
        assert not meta.training["kept_base"], meta.training["why"]
        errors = meta.training["held_out_errors"]
        assert min(errors.values()) < errors["0"]
        assert meta.metrics["test"]["rmse"] < 15

    def test_both_kinds_of_nets_are_fine_tuned(self, tmp_path: Path):
        fit_sensors(recipe(train={"steps": 20}), pumps(), tmp_path / "base", recipe_text="")
        meta = self.fine(tmp_path / "base", pumps(4, first=60), tmp_path / "fine", steps=5)
        assert meta.backbone == "mlp+tcn"
        assert set(meta.training["held_out_errors"]) == {"0", "0.25", "0.5", "0.75", "1"}

    def test_a_base_of_another_family_is_refused(self, simple: Path, tmp_path: Path):
        wanted = recipe(model={"base": str(simple)}, window={"length": 20})
        with pytest.raises(UserError, match="is of another family"):
            fit_sensors(wanted, pumps(), tmp_path, recipe_text="")


def test_labels_belong_to_the_newest_row_that_a_step_saw():
    time = np.array([0.0, 1.0, 2.0, np.nan, 5.0, 4.0])
    run = Run("a", "a", "a", "train", time, np.zeros((6, 1)))
    assert run.newest(np.array([-1.0, 0.0, 1.5, 4.0, 9.0])).tolist() == [0, 0, 1, 5, 4]


def test_windows_carry_what_is_known_of_their_rows():
    windows = windows_of(recipe(), pumps(), "val")
    run = pumps().split("val")[0]
    mine = windows.take(windows.run == 0)
    assert mine.rul is not None
    assert run.rul is not None
    assert mine.rul[-1] == 0
    assert mine.end[-1] == run.time[-1]
    assert mine.values[-1, -1, 1] == pytest.approx(run.values[-1, 1])
    assert len(windows_of(recipe(), pumps(1), "test")) == 0

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_sft import checkpoint as files
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.errors import DataError, UserError
from edge_sft.federated.learner import Arrays
from edge_sft.federated.learners.remaining_life import RemainingLife
from edge_sft.federated.normaliser import NAMES, merged, problem, standardisation
from edge_sft.federated.settings import LIFE_ROUNDS, section_of
from edge_sft.progress import Silent
from edge_sft.sensor_recipe import SensorRecipe

CHANNELS = ("load", "wear")
TEXT = """
modality = "window"
name = "pumps"
[task]
kind = "regression"
cap = 40.0
unit = "h"
[data]
path = "x"
group = "file:(p[0-9]+)"
time = "time"
channels = [{ name = "load" }, { name = "wear" }]
[window]
length = 12
min_valid = 0.05
[model]
architecture = "mlp"
width = 16
[train]
steps = 90
batch_size = 64
learning_rate = 0.01
folds = 3
"""
SILENT = Silent()


def recipe() -> SensorRecipe:
    from edge_sft import strict_toml

    return strict_toml.loads(TEXT, SensorRecipe, source="test")


def pump(number: int, split: str, scale: float) -> Run:
    rng = np.random.default_rng(number)
    life = int(rng.integers(45, 70))
    time = np.arange(life, dtype=np.float64)
    load = rng.choice([10.0, 50.0], life)
    wear = scale * (np.exp((time - life) / 15) * 5 + 0.2 * rng.normal(size=life))
    name = f"p{number:02d}"
    values = np.stack([load, wear], axis=1)
    return Run(name, name, name, split, time, values, rul=life - 1 - time, sha256=f"{number:064x}")  # type: ignore[arg-type]


def plant(first: int, *, scale: float = 1.0, machines: int = 6) -> SensorDataset:
    splits = ["train"] * machines + ["val", "test"]
    runs = tuple(pump(first + number, split, scale) for number, split in enumerate(splits))
    return SensorDataset(Path("pumps"), CHANNELS, (), runs)


def learner(work: Path, first: int = 0, *, scale: float = 1.0, machines: int = 6) -> RemainingLife:
    return RemainingLife(recipe(), plant(first, scale=scale, machines=machines), TEXT, work)


def one_round(sites: list[RemainingLife], shared: Arrays, number: int) -> Arrays:
    updates = []
    for site in sites:
        site.load(shared)
        site.train(round_number=number, rounds=2, steps=None, proximal=0.0, progress=SILENT)
        updates.append(site.weights())
    return {name: np.mean([update[name] for update in updates], axis=0, dtype=np.float32) for name in shared}


def test_sites_of_other_units_begin_alike_and_learn_together(tmp_path: Path):
    sites = [learner(tmp_path / "a"), learner(tmp_path / "b", 20, scale=100.0)]
    assert sites[0].compatible.differences(sites[1].compatible) == []
    shared = sites[0].weights()
    before = sites[1].judge("val").numbers["rmse"]
    for number in (1, 2):
        shared = one_round(sites, shared, number)
    sites[1].load(shared)
    judged = sites[1].judge("val")
    assert judged.samples > 0
    assert judged.score == -judged.numbers["rmse"]
    assert judged.numbers["rmse"] < 0.7 * before


def test_the_same_calls_give_the_same_bits(tmp_path: Path):
    found = []
    for _ in range(2):
        site = learner(tmp_path)
        told = site.train(round_number=2, rounds=3, steps=20, proximal=0.1, progress=SILENT)
        assert told.steps == 20
        assert told.samples > 100
        found.append({name: value.tobytes() for name, value in site.weights().items()})
    assert found[0] == found[1]


def test_a_common_normalisation_is_seen_by_all_and_travels_with_the_checkpoint(tmp_path: Path):
    sites = [learner(tmp_path / "a"), learner(tmp_path / "b", 20, scale=3.0)]
    openings = [site.opening() for site in sites]
    common = merged(openings, conditions=(), lifelong=()) | standardisation(openings)
    told = []
    for site in sites:
        before = site.judge("train").score
        site.load(common)
        assert site.judge("train").score != before
        told.append(site._prepared.front.normalise.mean.numpy())
    assert (told[0] == told[1]).all()
    again = sites[0].opening()  # as before: of its own rows, under its own normalisation
    assert all((again[name] == value).all() for name, value in openings[0].items())
    assert problem(again, {name: value.shape for name, value in sites[0].weights().items()}) == ""
    sites[0].checkpoint(tmp_path / "out", personal=False, progress=SILENT)
    from edge_sft.models.sensors import inference

    assert (inference.load(tmp_path / "out").front.normalise.mean.numpy() == told[0]).all()  # type: ignore[union-attr]


def test_remaining_life_averages_often():
    assert section_of(TEXT).rounds == LIFE_ROUNDS


def test_normalisation_stays_local_where_the_recipe_says_so(tmp_path: Path):
    text = TEXT + '[federated]\nnormaliser = "local"\n'
    from edge_sft import strict_toml

    site = RemainingLife(strict_toml.loads(text, SensorRecipe, source="test"), plant(0), text, tmp_path)
    assert site.opening() == {}
    assert not set(NAMES) & set(site.weights())


def test_a_strong_pull_keeps_the_weights_near(tmp_path: Path):
    moved = []
    for proximal in (0.0, 100.0):
        site = learner(tmp_path)
        before = site.weights()
        site.train(round_number=1, rounds=1, steps=30, proximal=proximal, progress=SILENT)
        moved.append(sum(float(np.abs(value - before[name]).sum()) for name, value in site.weights().items()))
    assert moved[1] < 0.8 * moved[0]


def test_parts_say_what_is_a_head(tmp_path: Path):
    site = learner(tmp_path)
    parts = site.parts
    assert parts.keys() == site.weights().keys()
    assert set(parts.values()) == {"body", "bias", "head", "norm"}
    assert {name for name, part in parts.items() if part == "norm"} == {"mean", "scale", *NAMES}
    assert sum(part == "head" for part in parts.values()) == 2 * 3


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda name, value: {"nets.9.x": value}, "no such net"),
        (lambda name, value: {name: value[:-1]}, "shape"),
        (lambda name, value: {name: np.full_like(value, np.nan)}, "finite"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(tmp_path: Path, broken, words: str):  # type: ignore[no-untyped-def]
    site = learner(tmp_path)
    before = site.weights()
    name = min(before)
    with pytest.raises(DataError, match=words):
        site.load({**{key: value + 1 for key, value in before.items()}, **broken(name, before[name])})
    assert all((value == before[key]).all() for key, value in site.weights().items())


def test_a_site_of_fewer_machines_than_folds_has_as_many_nets_as_the_others(tmp_path: Path):
    many, few = learner(tmp_path / "many"), learner(tmp_path / "few", 20, machines=2)
    assert many.compatible.differences(few.compatible) == []
    one_round([many, few], many.weights(), 1)
    first, second, third = few._prepared.left_out
    assert first.tolist() == third.tolist() != second.tolist()
    meta = few.checkpoint(tmp_path / "own", personal=True, progress=SILENT)
    errors = meta.training["candidates"]
    assert {"alone", "global", "personal"} <= errors.keys()
    assert all(np.isfinite(value) for value in errors.values())
    assert len(few._loaded(tmp_path / "few" / "alone").members.nets) == 2  # as `edge-sft train` would
    assert 0.5 <= meta.training["averaging"] <= 1.0


def test_its_interval_is_not_made_narrower_by_nets_that_left_out_the_same(tmp_path: Path):
    from edge_sft.training.sensors.features import table_of
    from edge_sft.training.sensors.regression import averaging, known, lived

    site = learner(tmp_path, machines=2)
    runs = lived(site._dataset.split("val"))
    judged = known(table_of(site._own.front, site._recipe.windowing(), runs))
    nets = list(site._members.nets)
    members = site._members.with_nets([nets[0], nets[1], nets[0]])
    twice = site._members.with_nets([nets[0], nets[1]])
    held = site._own.held_out(members, 40.0)
    assert averaging(members, judged, 1, 2, held, 40.0) == averaging(twice, judged, 1, 2, held, 40.0)


def test_one_machine_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="has 1 training machines whose remaining life is known"):
        learner(tmp_path, machines=1)


def test_a_base_is_refused(tmp_path: Path):
    based = recipe().model_copy(update={"model": recipe().model.model_copy(update={"base": "x"})})
    with pytest.raises(UserError, match=r"model\.base"):
        RemainingLife(based, plant(0), TEXT, tmp_path)


def test_a_site_ends_with_a_checkpoint_of_its_own(tmp_path: Path):
    site = learner(tmp_path / "work")
    site.train(round_number=1, rounds=1, steps=None, proximal=0.0, progress=SILENT)
    shared = site.weights()
    meta = site.checkpoint(tmp_path / "personal", personal=True, progress=SILENT)
    errors = meta.training["candidates"]
    assert errors[meta.training["chosen"]] == min(errors.values())
    assert {"alone", "global", "personal"} <= errors.keys()
    assert site.checkpoint(tmp_path / "personal", personal=True, progress=SILENT) == meta
    assert all((value == shared[name]).all() for name, value in site.weights().items())
    kept = files.read_sensor_scores(tmp_path / "personal")
    assert {"val/value", "test/value", "replay/features"} <= kept.keys()
    plain = site.checkpoint(tmp_path / "global", personal=False, progress=SILENT)
    assert plain.training["chosen"] == "global"
    assert plain.metrics["val"]["rmse"] == pytest.approx(site.judge("val").numbers["rmse"], rel=1e-4)


@pytest.mark.slow
def test_a_joined_model_is_exported(tmp_path: Path):
    from edge_sft.export.sensors.variants import export_sensors

    site = learner(tmp_path / "work")
    site.alone(tmp_path / "alone", SILENT)
    joined = site.candidates(site._loaded(tmp_path / "alone").members, site.tuned(SILENT))["global + personal"]
    assert len(joined.nets) == 6
    site._personal = lambda progress: (site._prepared, joined, {"chosen": "global + personal"})  # type: ignore[method-assign]
    site.checkpoint(tmp_path / "out", personal=True, progress=SILENT)
    made = export_sensors(tmp_path / "out", plant(0), tmp_path / "onnx", variants=("fp32", "int8-cpu"))
    assert made.files["fp32"].is_file()

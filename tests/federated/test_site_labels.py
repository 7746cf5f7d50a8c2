"""A plant that lacks a label, or machines, that others have: who may join, what is said, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_sft.data.reader import open_dataset
from edge_sft.errors import DataError
from edge_sft.federated import preflight, site_labels
from edge_sft.federated.at_site import open_pictures, pictures_at
from edge_sft.progress import Silent
from edge_sft.recipe import Recipe
from edge_sft.sensor_recipe import SensorRecipe

SILENT = Silent()
TEXT = """
name = "toy"
[task]
labels = ["dent", "scratch", "clean"]
ok = ["clean"]
[data]
path = "elsewhere"
"""


def plant(root: Path, **counts: dict[str, int]) -> Path:
    """Pictures of noise: ``train={"dent": 3}``."""
    rng = np.random.default_rng(0)
    for split, labels in counts.items():
        for label, count in labels.items():
            for number in range(count):
                path = root / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), rng.integers(0, 255, (24, 24), dtype=np.uint8))
    return root


def recipe(root: Path) -> tuple[Path, Recipe]:
    from edge_sft import recipe as recipes

    path = root.parent / "recipe.toml"
    path.write_text(TEXT)
    return path, pictures_at(recipes.load(path), root)


def whole(**without: str) -> dict[str, dict[str, int]]:
    return {
        split: {label: 3 for label in ("dent", "scratch", "clean") if label not in without.get(split, "").split()}
        for split in ("train", "val", "test")
    }


def test_a_site_may_lack_a_label_and_is_told_what_that_means(tmp_path: Path):
    data = plant(tmp_path / "data", **whole(train="dent", val="dent", test="dent scratch"))
    path, here = recipe(data)
    missing = site_labels.lacks(here, open_pictures(here, SILENT))
    assert missing == site_labels.Lacks(("dent",), ("dent",), ("dent", "scratch"))
    assert missing.facts == {"train": ["dent"], "val": ["dent"], "test": ["dent", "scratch"]}
    found = preflight.data(path, data, SILENT)
    assert [one.level for one in found] == ["ok", "warning", "warning", "warning"]
    assert found[0].fact == "train 6, val 6, test 3"
    assert "a model of this site's data alone cannot know it" in found[1].fact
    assert found[2].fact.startswith("'dent' is not among what this site chooses and gates by")
    assert found[3].fact.startswith("'dent', 'scratch' is not among what this site reports on")


def test_central_training_goes_on_refusing_it(tmp_path: Path):
    _, here = recipe(plant(tmp_path / "data", **whole(train="dent", val="dent", test="dent")))
    with pytest.raises(DataError, match="no readable picture of 'dent'"):
        open_dataset(here)
    data = open_dataset(here, partial=True)
    fit = pytest.importorskip("edge_sft.training.fit", reason="no torch: that training refuses it is not proved")
    fit.refuse(here, data)
    with pytest.raises(DataError, match="no training pictures of 'dent'"):
        fit.refuse(here, replace(data, partial=False))


def test_one_label_alone_is_refused_in_words(tmp_path: Path):
    path, _ = recipe(plant(tmp_path / "data", **whole(train="dent scratch")))
    (found,) = preflight.data(path, tmp_path / "data", SILENT)
    assert found.level == "error"
    assert "has only 'clean' to train on" in found.fact
    assert found.remedy == "Add some of 'dent', 'scratch'; two labels are enough, the other sites bring the rest."


@pytest.mark.parametrize(
    ("without", "said"), [("clean", "nothing good to validate on"), ("dent scratch", "nothing faulty to validate on")]
)
def test_without_good_or_without_faulty_parts_the_threshold_is_said_to_rest_on_costs(
    tmp_path: Path, without: str, said: str
):
    path, _ = recipe(plant(tmp_path / "data", **whole(val=without)))
    facts = [one.fact for one in preflight.data(path, tmp_path / "data", SILENT) if one.level == "warning"]
    assert any(fact.startswith(said) and "rest on the recipe's costs alone" in fact for fact in facts)


def test_a_site_that_has_everything_is_told_nothing(tmp_path: Path):
    path, here = recipe(plant(tmp_path / "data", **whole()))
    assert [one.level for one in preflight.data(path, tmp_path / "data", SILENT)] == ["ok"]
    assert site_labels.lacks(here, open_pictures(here, SILENT)).facts == {}


GEARS = """
modality = "window"
name = "gears"
[task]
kind = "classification"
labels = ["fine", "worn", "cracked"]
ok = ["fine"]
[data]
path = "."
pattern = "*.csv"
time = "time"
label = "label"
group = "machine"
[[data.channels]]
name = "a"
[window]
length = 8
hop = 8
"""
LIVES = """
modality = "window"
name = "pumps"
[task]
kind = "regression"
[data]
path = "."
pattern = "*.csv"
time = "time"
rul = "left"
group = "machine"
[[data.channels]]
name = "a"
[window]
length = 8
hop = 1
"""


def rows(folder: Path, text: str, machines: dict[str, str], column: str) -> Path:
    """One file a machine; ``machines`` says its label, or what its column holds."""
    folder.mkdir()
    (folder.parent / "recipe.toml").write_text(text)
    rng = np.random.default_rng(1)
    for name, told in machines.items():
        lines = [f"time,machine,a,{column}"]
        lines += [f"{second},{name},{rng.normal():.6f},{told or 63 - second}" for second in range(64)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder.parent / "recipe.toml"


def test_a_plant_without_one_of_the_faults_may_join(tmp_path: Path):
    machines = {f"m{number}": ("fine", "worn")[number % 2] for number in range(8)}
    path = rows(tmp_path / "data", GEARS, machines, "label")
    found = preflight.data(path, tmp_path / "data", SILENT)
    assert [one.level for one in found] == ["ok", "warning", "warning", "warning"]
    assert "nothing to train on of 'cracked'" in found[1].fact


def test_a_plant_of_healthy_machines_alone_is_refused(tmp_path: Path):
    path = rows(tmp_path / "data", GEARS, {f"m{number}": "fine" for number in range(6)}, "label")
    (found,) = preflight.data(path, tmp_path / "data", SILENT)
    assert found.level == "error"
    assert "has only 'fine' to train on" in found.fact


def test_one_machine_to_train_on_is_refused_before_the_first_round(tmp_path: Path):
    path = rows(tmp_path / "data", LIVES + '[data.split]\nval_groups = ["m1"]\ntest_groups = ["m2"]\n',
                {f"m{number}": "" for number in range(3)}, "left")  # fmt: skip
    (found,) = preflight.data(path, tmp_path / "data", SILENT)
    assert found.level == "error"
    assert "has 1 training machines whose remaining life is known" in found.fact
    assert "2 are needed" in found.fact


def test_a_task_without_labels_lacks_none(tmp_path: Path):
    path = rows(tmp_path / "data", LIVES, {f"m{number}": "" for number in range(5)}, "left")
    from edge_sft import sensor_recipe
    from edge_sft.federated.at_site import open_rows, rows_at

    here: SensorRecipe = rows_at(sensor_recipe.load(path), tmp_path / "data")
    assert site_labels.lacks(here, open_rows(here, SILENT)) == site_labels.Lacks()
    assert [one.level for one in preflight.data(path, tmp_path / "data", SILENT)] == ["ok"]

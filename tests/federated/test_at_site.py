"""A recipe over a site's own folder: what it names by file is looked for there, wherever the recipe lies."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_sft.errors import UserError
from edge_sft.federated import preflight, site_files
from edge_sft.federated.at_site import pictures_at, rows_at
from edge_sft.progress import Silent
from edge_sft.recipe import Recipe
from edge_sft.sensor_recipe import SensorRecipe

PICTURES = """name = "caps"
[task]
labels = ["good", "scratch"]
ok = ["good"]
[data]
path = "somewhere/else"
manifest = "somewhere/parts.csv"
"""


def test_the_manifest_lies_with_the_pictures(tmp_path: Path) -> None:
    """The recipe came by mail; nothing that it names beside itself is there."""
    data, mail = tmp_path / "data", tmp_path / "mail"
    data.mkdir()
    mail.mkdir()
    (mail / "recipe.toml").write_text(PICTURES)
    rng = np.random.default_rng(0)
    lines = ["path,label,split"]
    for number in range(12):
        cv2.imwrite(str(data / f"{number}.png"), rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        split = ("train", "train", "val", "test")[number // 2 % 4]
        lines.append(f"{number}.png,{('good', 'scratch')[number % 2]},{split}")
    (data / "parts.csv").write_text("\n".join(lines) + "\n")
    found = preflight.data(mail / "recipe.toml", data, Silent())
    assert [finding.level for finding in found] == ["ok"], found
    assert found[0].fact == "train 8, val 2, test 2"


def test_a_plant_of_good_parts_alone_is_told_so_when_it_joins(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        (tmp_path / "caps" / "good").mkdir(parents=True, exist_ok=True)
        picture = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "caps" / "good" / f"{number}.png"), picture)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(PICTURES.replace('manifest = "somewhere/parts.csv"\n', ""))
    (found,) = preflight.data(recipe, tmp_path / "caps", Silent())
    assert found.level == "error"
    assert "has only 'good' to train on" in found.fact
    assert "Add some of 'scratch'" in found.remedy


def test_a_log_of_failures_lies_with_the_rows(tmp_path: Path) -> None:
    recipe = SensorRecipe.model_validate(
        {
            "modality": "window",
            "name": "pumps",
            "task": {"kind": "regression"},
            "data": {"path": "rows", "time": "t", "events": {"path": "logs/failures.csv"}, "channels": [{"name": "a"}]},
            "window": {"length": 4},
        }
    )
    moved = rows_at(recipe, tmp_path).data
    assert moved.path == str(tmp_path)
    assert moved.events is not None
    assert moved.events.path == str(tmp_path / "failures.csv")


def test_a_recipe_without_a_manifest_gets_none() -> None:
    recipe = Recipe.model_validate({"name": "caps", "task": {"labels": ["a", "b"]}, "data": {"path": "x"}})
    assert pictures_at(recipe, Path("/data")).data.manifest is None
    assert pictures_at(recipe, Path("/data")).data.path == "/data"


def test_a_simulated_site_knows_its_data_a_folder_without_a_site_is_told(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('site = "site-1"\ndata = "data"\n')
    assert site_files.data_of(tmp_path) == tmp_path / "data"
    (tmp_path / "site.toml").write_text('site = "site-1"\ndata = "data"\nextra = 1\n')
    with pytest.raises(UserError, match="address"):
        site_files.data_of(tmp_path)
    with pytest.raises(UserError, match="is no site"):
        site_files.data_of(tmp_path / "nowhere")

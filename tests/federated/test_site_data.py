from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_sft.errors import DataError, UserError
from edge_sft.federated import partition
from edge_sft.federated.site_data import FILE, materialise

PICTURES = 'name = "toy"\n[task]\nlabels = ["scratch", "clean"]\nok = ["clean"]\n[data]\npath = "pool"\n'
PUMPS = """
modality = "window"
name = "pumps"
[task]
kind = "regression"
cap = 40.0
[data]
path = "runs"
channels = [{ name = "wear" }]
[window]
length = 4
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("scratch", "clean"):
        for index in range(30):
            path = tmp_path / "pool" / label / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rng.integers(0, 255, (32, 32), dtype=np.uint8))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(PICTURES)
    return recipe


@pytest.fixture
def pumps(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "runs").mkdir()
    for number in range(8):
        rows = "\n".join(f"{value:.3f}" for value in np.cumsum(rng.random(40)))
        (tmp_path / "runs" / f"p{number}.csv").write_text(f"wear\n{rows}\n")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(PUMPS)
    return recipe


def test_pictures_go_to_sites_and_keep_their_split(pictures: Path, tmp_path: Path):
    folders = materialise(pictures, "dirichlet(0.5)", 2, 0, tmp_path / "sites")
    assert list(folders) == ["site-1", "site-2"]
    counts = [len(list(folder.rglob("*.png"))) for folder in folders.values()]
    assert sum(counts) == 60
    for folder in folders.values():
        assert {path.parent.name for path in folder.glob("train/*/*.png")} == {"scratch", "clean"}
    written = partition.read((tmp_path / "sites" / FILE).read_text(), source=FILE)
    assert len(written) == 60
    again = materialise(pictures, str(tmp_path / "sites" / FILE), 9, 5, tmp_path / "again")
    assert [len(list(folder.rglob("*.png"))) for folder in again.values()] == counts


def test_machines_files_go_to_sites(pumps: Path, tmp_path: Path):
    folders = materialise(pumps, "group", 2, 0, tmp_path / "sites")
    assert [len(list(folder.iterdir())) for folder in folders.values()] == [4, 4]
    with pytest.raises(UserError, match="for pictures"):
        materialise(pumps, "dirichlet(1)", 2, 0, tmp_path / "other")


def test_a_partition_that_does_not_name_all_is_refused(pumps: Path, tmp_path: Path):
    (tmp_path / "cut.csv").write_text("id,site\np0.csv,a\n")
    with pytest.raises(DataError, match="no site for 7 samples"):
        materialise(pumps, str(tmp_path / "cut.csv"), 2, 0, tmp_path / "sites")
    with pytest.raises(UserError, match="cannot be read"):
        materialise(pumps, str(tmp_path / "none.csv"), 2, 0, tmp_path / "sites")

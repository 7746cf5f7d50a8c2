"""A pool of data cut into sites, and the whole of a simulation from the command line's pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="no Flower: the simulation is not proved")

from edge_sft.errors import DataError, UserError
from edge_sft.federated import partition, simulate
from edge_sft.federated.site_folders import lay_out
from edge_sft.progress import Silent

from . import plants

RECIPE = """modality = "window"
name = "pumps"
[task]
kind = "regression"
[data]
path = "rows"
time = "t"
{run}
channels = [{{name = "flow"}}]
[window]
length = 4
[federated]
rounds = 2
deadline_s = 30
"""


def pool(folder: Path, *, files: bool) -> Path:
    """Twelve pumps: a file each, or all in one table."""
    (folder / "rows").mkdir(parents=True)
    rng = np.random.default_rng(0)
    whole = ["t,pump,flow"]
    for pump in range(12):
        rows = [f"{t},p{pump:02d},{rng.normal():.3f}" for t in range(30)]
        whole += rows
        if files:
            (folder / "rows" / f"p{pump:02d}.csv").write_text("\n".join(["t,pump,flow", *rows]) + "\n")
    if not files:
        (folder / "rows" / "all.csv").write_text("\n".join(whole) + "\n")
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(run="" if files else 'run = "pump"'))
    return recipe


@pytest.mark.parametrize("files", [True, False])
def test_groups_go_whole_to_one_site_and_nothing_is_lost(files: bool, tmp_path: Path) -> None:
    recipe = pool(tmp_path, files=files)
    folders = lay_out(recipe, "group", 3, 0, tmp_path / "sites", Silent())
    assert sorted(folders) == ["site-1", "site-2", "site-3"]
    rows = {
        site: [line for path in data.iterdir() for line in path.read_text().splitlines()[1:]]
        for site, data in folders.items()
    }
    pumps = {site: {line.split(",")[1] for line in lines} for site, lines in rows.items()}
    assert set.union(*pumps.values()) == {f"p{pump:02d}" for pump in range(12)}
    assert sum(len(one) for one in pumps.values()) == 12
    assert sum(len(lines) for lines in rows.values()) == 360
    cut = partition.read((tmp_path / "sites/partition.csv").read_text(), source="it")
    assert len(cut) == 12
    again = lay_out(recipe, "group", 5, 9, tmp_path / "sites", Silent())
    assert sorted(again) == sorted(folders), "what was cut stays as it was cut"


def test_a_partition_file_is_followed_and_a_strange_one_refused(tmp_path: Path) -> None:
    recipe = pool(tmp_path, files=True)
    chosen = {f"p{pump:02d}.csv": "kiel" if pump < 7 else "linz" for pump in range(12)}
    (tmp_path / "cut.csv").write_text(partition.write(chosen))
    folders = lay_out(recipe, str(tmp_path / "cut.csv"), 3, 0, tmp_path / "sites", Silent())
    assert {site: len(list(data.iterdir())) for site, data in folders.items()} == {"kiel": 7, "linz": 5}
    (tmp_path / "odd.csv").write_text(partition.write({"nobody.csv": "kiel"}))
    with pytest.raises(DataError, match=r"names 1 samples that are not there, as nobody\.csv"):
        lay_out(recipe, str(tmp_path / "odd.csv"), 3, 0, tmp_path / "more", Silent())
    with pytest.raises(UserError, match="cuts by labels"):
        lay_out(recipe, "dirichlet(0.5)", 3, 0, tmp_path / "more", Silent())


def test_pictures_keep_their_split(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="no OpenCV: pictures are not written")
    rng = np.random.default_rng(1)
    for label in ("good", "bad"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(40):
            picture = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
            assert cv2.imwrite(str(tmp_path / "pictures" / label / f"{number:02d}.png"), picture)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'name = "parts"\n[task]\nlabels = ["good", "bad"]\n[data]\npath = "pictures"\n[image]\nsize = 32\n'
    )
    folders = lay_out(recipe, "dirichlet(1.0)", 2, 0, tmp_path / "sites", Silent())
    found = [path.relative_to(data).parts for data in folders.values() for path in sorted(data.rglob("*.png"))]
    assert len(found) == 80
    assert {parts[0] for parts in found} == {"train", "val", "test"}
    assert {parts[1] for parts in found} == {"good", "bad"}


def of_rows(recipe: str, data: Path, work: Path, progress: Any) -> plants.Toy:
    if not (data / "data.npz").exists():
        plants.write_data(data, len(str(data)))
    return plants.Toy(data)


def test_a_simulation_from_recipe_to_result(tmp_path: Path) -> None:
    recipe = pool(tmp_path, files=True)
    what = simulate.Simulation(recipe, tmp_path / "runs", "pumps", 3, "group", 0)
    store = simulate.prepare(what, Silent())
    said: list[str] = []
    result = simulate.simulate(store, said.append, of_rows)
    facts = json.loads((result / "federated.json").read_text())
    assert sorted(facts["sites"]) == ["site-1", "site-2", "site-3"]
    assert all(row["finished"] for row in facts["sites"].values())
    from edge_sft.federated.app import app_sha256

    assert facts["app_sha256"] == app_sha256()
    assert simulate.simulate(simulate.prepare(what, Silent()), said.append, of_rows) == result


def test_fewer_sites_than_the_quorum_are_refused(tmp_path: Path) -> None:
    recipe = pool(tmp_path, files=True)
    with pytest.raises(UserError, match=r"1 sites: are fewer than federated\.quorum = 2"):
        simulate.prepare(simulate.Simulation(recipe, tmp_path / "runs", "pumps", 1, "group", 0), Silent())


def test_the_command_has_two_names(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_sft.cli.main import main

    for words in (["federate", "simulate", "--help"], ["federate", "--simulate", "--help"]):
        monkeypatch.setattr("sys.argv", ["edge-sft", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        assert "--partition" in capsys.readouterr().out

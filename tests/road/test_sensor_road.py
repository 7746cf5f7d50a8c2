"""From a table of engines run to failure to decisions about others, by the commands a plant engineer types."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from .conftest import Factory

DATA = Path(__file__).parents[3] / "shared" / "data" / "cmapss" / "train_FD001.csv.gz"
CHANNELS = ("s2", "s4", "s7", "s11", "s12", "s15", "s20", "s21")
RECIPE = """
schema_version = 1
modality = "window"
name = "turbofan"
[task]
kind = "regression"
cap = 125
unit = "cycles"
[data]
path = "engines.csv"
time = "cycle"
group = "unit"
{channels}
[window]
length = 20
age = true
age_unit = 100
[train]
steps = 60
folds = 2
[policy]
act_below = 15
[export]
variants = ["fp32", "int8-cpu"]
tolerance_points = 5
"""


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    """Return a plant whose bundle was built from twelve engines by the command line alone."""
    if not DATA.is_file():
        pytest.skip("no C-MAPSS files on this machine: the road of sensors was not walked on real rows")
    home = tmp_path_factory.mktemp("plant")
    rows = list(csv.reader(gzip.decompress(DATA.read_bytes()).decode().splitlines()))
    for name, units in (("engines", range(1, 13)), ("others", range(13, 15))):
        _write(home / f"{name}.csv", [rows[0], *(row for row in rows[1:] if int(row[0]) in units)])
    channels = "\n".join(f'[[data.channels]]\nname = "{name}"' for name in CHANNELS)
    (home / "recipe.toml").write_text(RECIPE.format(channels=channels))
    made = Factory(home)
    made.must("keys", "init")
    made.must("build", "recipe.toml")
    return made


def _write(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def test_build_leaves_what_a_person_looks_at_and_does_nothing_twice(plant: Factory) -> None:
    run = plant.home / "runs" / "turbofan"
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")
    assert "<html" in (run / "check.html").read_text(encoding="utf-8")
    said = plant.must("bundle", "inspect", plant.bundle)
    assert "regression, 9 channels, 20 steps" in said
    assert "RMSE in cycles" in said
    stamp = (run / "checkpoint" / "checkpoint.json").stat().st_mtime_ns
    assert "already" in plant.must("build", "recipe.toml")
    assert (run / "checkpoint" / "checkpoint.json").stat().st_mtime_ns == stamp


def test_a_checkpoint_is_exported_from_where_its_recipe_lay(plant: Factory) -> None:
    said = plant.must("export", "runs/turbofan/checkpoint", "--out", "again")
    assert "passed" in said
    kept = plant.home / "runs" / "turbofan" / "export" / "fp32.onnx"
    assert (plant.home / "again" / "fp32.onnx").read_bytes() == kept.read_bytes()


def test_the_device_measures_and_says_why_it_refuses(plant: Factory) -> None:
    said = " ".join(plant.must("deploy", plant.bundle, "--to", "local").split())
    assert "serving: turbofan 0.1.0" in said
    proof = json.loads(next((plant.home / "device").rglob("proof.json")).read_text())
    assert proof["frame"] == "20x9"
    measured = {item["variant"]: item for item in proof["variants"]}
    assert measured["fp32"]["passed"]
    int8 = measured.get("int8-cpu")
    if int8 is not None and not int8["passed"]:
        assert int8["reason"].startswith("not faster than fp32 here")


def test_other_engines_are_predicted_and_the_end_is_seen_coming(plant: Factory) -> None:
    said = plant.must("predict", plant.bundle, "others.csv", "--json")
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert {line["asset"] for line in lines} == {"13", "14"}
    assert all(line["low"] <= line["value"] <= line["high"] <= 125 for line in lines)
    newest = {line["asset"]: line for line in lines}
    said = plant.must("predict", plant.bundle, "others.csv", "--json", "--last")
    last = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [(line["name"], line["value"]) for line in last] == [
        (newest[asset]["name"], pytest.approx(newest[asset]["value"], rel=1e-4)) for asset in ("13", "14")
    ]
    assert {line["verdict"] for line in last} == {"nok"}  # both ran until they failed


def test_rows_that_lack_a_channel_are_decided_without_it_and_that_is_said(plant: Factory) -> None:
    rows = list(csv.reader((plant.home / "others.csv").read_text().splitlines()))
    renamed = [["S4 raw" if name == "s4" else name for name in rows[0]], *rows[1:]]
    _write(plant.home / "renamed.csv", renamed)
    done = plant.run("predict", plant.bundle, "renamed.csv", "--last", "--csv")
    assert done.returncode == 0, done.stderr
    assert "has no column for s4" in done.stderr
    assert done.stdout.splitlines()[0].startswith("asset,name,verdict")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("unit,cycle\n1,1\n", "none of the channels"),
        ("", "no usable rows"),
        ("unit,s2,s4\n1,2,3\n", "has no column 'cycle'"),
    ],
)
def test_files_without_usable_rows_end_in_one_clear_line(plant: Factory, content: str, words: str) -> None:
    (plant.home / "bad.csv").write_text(content)
    done = plant.run("predict", plant.bundle, "bad.csv")
    assert done.returncode == 3
    assert words in done.stderr
    assert "Traceback" not in done.stderr

"""The three sensor examples, on small plants in the formats of the public data: data in, report and decisions out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from edge_sft import sensor_recipe
from edge_sft.data.sensors.reader import open_sensor_dataset

from . import plants

EXAMPLES = Path(__file__).parents[2] / "examples"
TURBOFAN, PROCESS, BEARING = "turbofan", "process", "bearing"
ROWS = {TURBOFAN: "engines", PROCESS: "runs-of-the-plant", BEARING: "recordings"}
PLANTS = {
    TURBOFAN: lambda folder: plants.turbofan(folder, engines=10),
    PROCESS: plants.process,
    BEARING: lambda folder: plants.bearing(folder, seconds=2.5),
}


def example(name: str) -> ModuleType:
    """Load examples/NAME/run.py."""
    spec = spec_from_file_location(f"edge_sft_example_{name}", EXAMPLES / name / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", [TURBOFAN, PROCESS, BEARING])
def test_the_recipe_reads_what_the_example_writes(name: str, tmp_path: Path) -> None:
    data = PLANTS[name](tmp_path / "data")
    given = (data, "FD001") if name == TURBOFAN else (data,)
    example(name).prepare(*given, tmp_path / ROWS[name])
    (tmp_path / "recipe.toml").write_text((EXAMPLES / name / "recipe.toml").read_text(encoding="utf-8"))
    recipe = sensor_recipe.load(tmp_path / "recipe.toml")
    dataset = open_sensor_dataset(recipe)
    sides = {side: {run.group for run in dataset.split(side)} for side in ("train", "val", "test")}
    assert all(sides.values())
    assert not sides["train"] & sides["test"]
    assert not dataset.quarantined
    assert not [finding for finding in dataset.findings if finding.severity == "error"]


def test_the_test_engines_live_as_nasa_says(tmp_path: Path) -> None:
    data = plants.turbofan(tmp_path / "data", engines=6)
    example(TURBOFAN).prepare(data, "FD001", tmp_path / "engines")
    lives = [float(line) for line in (data / "RUL_FD001.txt").read_text().split()]
    last = [path.read_text().splitlines()[-1].split(",")[-1] for path in sorted((tmp_path / "engines").glob("test-*"))]
    assert [float(cell) for cell in last] == lives
    assert (tmp_path / "engines" / "train-001.csv").read_text().splitlines()[-1].endswith(",0.0")


@pytest.mark.parametrize("name", [TURBOFAN, PROCESS, BEARING])
def test_other_folders_are_refused_in_a_line(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / name / "run.py"), "--data", str(tmp_path), "--work", str(tmp_path / "w")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Give the folder of" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(900)  # half a minute of one core each, much longer beside busy processes
@pytest.mark.parametrize("name", [TURBOFAN, PROCESS, BEARING])
def test_from_files_to_decisions_in_one_command(name: str, tmp_path: Path) -> None:
    if find_spec("torch") is None or find_spec("onnx") is None:
        pytest.skip("the training parts are not installed: the example was not run")
    data = PLANTS[name](tmp_path / "data")
    work = tmp_path / "work"
    folder = shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    recipe = (folder / "recipe.toml").read_text(encoding="utf-8")
    short = recipe.replace("[train]\n", '[export]\nvariants = ["fp32"]\n\n[train]\nsteps = 60\nfolds = 2\n')
    assert short != recipe  # a short training shows the road as well
    (folder / "recipe.toml").write_text(short, encoding="utf-8")
    command = [sys.executable, str(folder / "run.py"), "--data", str(data), "--work", str(work)]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "NO_COLOR": "1", "COLUMNS": "160"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=quiet)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told = done.stdout[done.stdout.rindex("$ edge-sft predict") :] + done.stderr
    assert {TURBOFAN: "cycles", PROCESS: "windows: ", BEARING: "ball-21"}[name] in told
    assert "What these numbers do not prove" in (work / "runs" / "report.html").read_text(encoding="utf-8")
    meta = json.loads((work / "runs" / "checkpoint" / "checkpoint.json").read_text(encoding="utf-8"))
    assert meta["metrics"]["test"]
    if name == PROCESS:
        decided = (work / "fault-06.csv").read_text(encoding="utf-8")
        assert ",nok," in decided  # the fault is seen by the memory that was commissioned a moment before

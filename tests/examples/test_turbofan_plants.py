"""Four plants from nothing to their own decisions, with every process that a plant has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from edge_sft import sensor_recipe

FOLDER = Path(__file__).parents[2] / "examples" / "turbofan_plants"
CMAPSS = Path(__file__).parents[3] / "shared" / "data" / "cmapss"
ENGINES = {"lyon": 200, "turin": 519, "graz": 200, "porto": 497}  # NASA's FD001 to FD004


def lacking() -> str:
    """Say what is missing for the example, or nothing."""
    missing = [name for name in ("flwr", "torch", "onnx", "onnxruntime") if find_spec(name) is None]
    missing += [
        name for name in ("nginx", "mosquitto") if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None
    ]
    return f"{', '.join(missing)} is not installed: the road over four plants was not run" if missing else ""


def test_the_recipe_is_one() -> None:
    recipe = sensor_recipe.load(FOLDER / "recipe.toml")
    assert recipe.federated is not None
    assert recipe.federated.quorum == 2


def test_an_old_folder_is_not_written_into(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "run.py"), "--work", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "is there already" in done.stderr


@pytest.mark.lab
@pytest.mark.timeout(1500)  # four minutes on two free cores
def test_from_an_invite_to_decisions_at_each_plant(tmp_path: Path) -> None:
    if why := lacking():
        pytest.skip(why)
    work = tmp_path / "work"
    real = ["--data", str(CMAPSS), "--quick"] if CMAPSS.is_dir() else []
    command = [sys.executable, str(FOLDER / "run.py"), "--work", str(work), *real]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "NO_COLOR": "1"}
    quiet["PYTHONPATH"] = str(FOLDER.parents[1])
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1400, env=quiet)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert f"round {3 if real else 2}: 4 of 4 sites" in done.stdout
    assert done.stdout.count("signed here") == len(ENGINES)
    assert done.stdout.count("0 missing: every stream is contiguous") == len(ENGINES)
    assert list(work.rglob("report.html"))
    for plant, engines in ENGINES.items():
        assert len(list((work / plant / "engines").glob("*.csv"))) == (engines if real else 15)
        assert (work / plant / "bundle" / "turbofan-0.1.0.edge").is_file()
        assert not (work / "coordinator" / plant).exists()
    kept = {path.suffix for path in (work / "coordinator").rglob("*") if path.is_file()}
    assert ".csv" not in kept  # no rows at the coordinator
    if os.geteuid() == 0 and shutil.which("ip") and "loopback" in done.stdout:
        pytest.skip("no network namespaces here: the road was run on loopback, what a plant can reach was not shown")
    if not real:
        pytest.skip(f"C-MAPSS is not here ({CMAPSS}): the road was run with made-up engines, not with NASA's four sets")

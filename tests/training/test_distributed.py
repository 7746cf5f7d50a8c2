"""Two processes on the CPU through torchrun, against one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from edge_sft import checkpoint as files
from edge_sft import recipe as recipes
from edge_sft.data.reader import open_dataset
from edge_sft.training.fit import fit

torch_distributed = pytest.importorskip("torch.distributed")
pytestmark = pytest.mark.skipif(not torch_distributed.is_gloo_available(), reason="torch has no gloo here")


def _torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.run(
        [*command, "-m", "edge_sft.training.distributed", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_two_processes_train_what_one_trains(toy: Path, tmp_path: Path) -> None:
    # without dropout every process draws what the one would; floats are added in another order
    toy.write_text(toy.read_text().replace("steps = 12", "steps = 4") + "[model]\ndropout = 0.0\n")
    done = _torchrun(str(toy), "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    loaded = recipes.load(toy)
    one = fit(loaded, open_dataset(loaded), tmp_path / "one", recipe_text=toy.read_text())
    two = files.read_meta(tmp_path / "two")
    assert two.training["processes"] == 2
    assert [entry["step"] for entry in two.training["history"]] == [entry["step"] for entry in one.training["history"]]
    for mine, theirs in zip(one.training["history"], two.training["history"], strict=True):
        assert mine["merit"] == pytest.approx(theirs["merit"], abs=0.02)
    first, second = load_file(tmp_path / "one" / files.WEIGHTS), load_file(tmp_path / "two" / files.WEIGHTS)
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], atol=2e-3, err_msg=name)


def test_an_error_is_one_line_and_a_status(toy: Path, tmp_path: Path) -> None:
    toy.write_text(toy.read_text() + '[model]\nweights = "gone.pth"\n')
    done = _torchrun(str(toy), "--out", str(tmp_path / "out"))
    assert done.returncode != 0
    assert "gone.pth: does not exist" in done.stderr


def test_started_without_torchrun_says_how(toy: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edge_sft.training.distributed", str(toy)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "torchrun --nproc_per_node=2" in done.stderr

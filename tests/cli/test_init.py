from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest

from edge_sft import recipe as recipes


@pytest.fixture
def parts(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("gut", "Riß [x]"):
        (tmp_path / "my parts" / label).mkdir(parents=True)
        for index in range(12):
            content = cv2.imencode(".png", rng.integers(0, 255, (40, 40), dtype=np.uint8))[1]
            (tmp_path / "my parts" / label / f"{index}.png").write_bytes(content.tobytes())
    return tmp_path / "my parts"


def edge_sft(*arguments, cwd):
    command = [sys.executable, "-c", "from edge_sft.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_a_recipe_is_written_beside_the_pictures_and_loads(parts):
    done = edge_sft("init", "my parts", cwd=parts.parent)
    assert done.returncode == 0, done.stderr
    assert "24 pictures in 2 classes" in done.stdout
    recipe = recipes.load(parts.parent / "recipe.toml")
    assert recipe.task.labels == ("gut", "Riß [x]")
    assert recipe.data.path == str(parts.parent / "my parts")
    assert 'path = "my parts"' in (parts.parent / "recipe.toml").read_text(encoding="utf-8")


def test_nothing_is_overwritten_unasked(parts):
    (parts.parent / "recipe.toml").write_text("mine")
    done = edge_sft("init", parts, cwd=parts.parent)
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert (parts.parent / "recipe.toml").read_text() == "mine"
    assert edge_sft("init", parts, "--force", cwd=parts.parent).returncode == 0
    assert edge_sft("init", parts, "--out", "sub/other.toml", cwd=parts.parent).returncode == 0
    assert recipes.load(parts.parent / "sub" / "other.toml").data.path == parts.as_posix()


def test_an_empty_folder_is_one_clear_line(tmp_path):
    done = edge_sft("init", tmp_path, cwd=tmp_path)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "is an empty folder" in done.stderr
    assert not (tmp_path / "recipe.toml").exists()

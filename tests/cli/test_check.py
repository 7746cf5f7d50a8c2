from __future__ import annotations

import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from edge_sft.checkpoint import Scores, write_scores


@pytest.fixture
def parts(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("ok", "bad"):
        (tmp_path / "parts" / label).mkdir(parents=True)
        for index in range(12):
            content = cv2.imencode(".png", rng.integers(0, 255, (40, 40), dtype=np.uint8))[1]
            (tmp_path / "parts" / label / f"{index}.png").write_bytes(content.tobytes())
    return tmp_path / "parts"


def edge_sft(*arguments, cwd):
    command = [sys.executable, "-c", "from edge_sft.cli.main import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join(done.stdout.split()), " ".join(done.stderr.split())


def test_a_folder_is_checked_in_words(parts):
    (parts / "ok" / "torn.png").write_bytes((parts / "ok" / "1.png").read_bytes()[:-9])
    status, said, _ = edge_sft("check", parts, cwd=parts.parent)
    assert status == 0
    assert "warning: 1 file cannot be used" in said
    assert "ok/torn.png: is truncated" in said
    assert "a claim of ≤ 0.1 % escapes needs about 3,000" in said


def test_a_contradiction_ends_with_3_and_the_page_is_written(parts):
    shutil.copy(parts / "ok" / "1.png", parts / "bad" / "x.png")
    edge_sft("init", parts, cwd=parts.parent)
    page = parts.parent / "out" / "check.html"
    status, said, wrong = edge_sft("check", "recipe.toml", "--html", page, cwd=parts.parent)
    assert status == 3, wrong
    assert "error: 1 time the same picture has different labels" in said
    assert "x.png" in page.read_text(encoding="utf-8")


def test_a_checkpoint_finds_suspicious_labels(parts):
    scores = Scores(["ok/1.png"], np.array([0]), np.array([[0.01, 0.99]], np.float32), np.ones(1, np.float32))
    write_scores(parts.parent / "model", {"val": scores})
    _, said, _ = edge_sft("check", parts, "--checkpoint", parts.parent / "model", cwd=parts.parent)
    assert "1 label contradicted by the model, first ok/1.png: labelled ok, 99% bad" in said


@pytest.mark.parametrize("given", ["nowhere", "nowhere.toml", "parts/ok"])
def test_what_cannot_be_checked_is_one_clear_line(parts, given):
    status, _, wrong = edge_sft("check", given, cwd=parts.parent)
    assert status in (2, 3)
    assert wrong.startswith("error: ")

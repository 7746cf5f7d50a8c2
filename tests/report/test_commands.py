"""`edge-sft report` and `edge-sft schema` as typed."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_sft.checkpoint import WEIGHTS, write_meta, write_scores, write_sensor_scores
from edge_sft.cli.report import report
from edge_sft.cli.schema import schema
from edge_sft.errors import DataError, UserError
from edge_sft.prediction import schema_text

RECIPE = """
name = "screws"
[task]
labels = ["good", "scratch", "dent"]
ok = ["good"]
[data]
path = "pictures"
[policy]
max_escape_rate = 0.01
"""


@pytest.fixture
def checkpoint(made: Any, tmp_path: Path) -> Path:
    meta, scores = made.both()
    folder = tmp_path / "runs" / "checkpoint"
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(b"weights")
    write_scores(folder, scores)
    write_meta(folder, meta.model_copy(update={"weights_sha256": sha256(b"weights").hexdigest()}))
    (folder / "recipe.toml").write_text(RECIPE)
    for item in scores.values():
        for name in item.ids:
            path = tmp_path / "pictures" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((8, 8), 90, np.uint8))
    return folder


def test_finds_the_pictures_beside_the_recipe(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(checkpoint)
    page = (checkpoint / "report.html").read_text(encoding="utf-8")
    assert "data:image/jpeg" in page
    assert "Validation cannot support it" in page  # the recipe's wish
    assert "Report" in capsys.readouterr().out


@pytest.mark.parametrize("cap", [125.0, 60.0])
def test_a_sensor_checkpoint_needs_no_pictures(sensors: Any, tmp_path: Path, cap: float) -> None:
    (tmp_path / WEIGHTS).write_bytes(b"weights")
    scores = sensors.lives(3)
    del scores["cap"]
    write_sensor_scores(tmp_path, scores)
    write_meta(tmp_path, sensors.rul_meta().model_copy(update={"weights_sha256": sha256(b"weights").hexdigest()}))
    channels = ", ".join(f'{{name = "{name}"}}' for name in sensors.CHANNELS)
    (tmp_path / "recipe.toml").write_text(
        f'modality = "window"\nname = "turbofan"\n[task]\nkind = "regression"\ncap = {cap}\n'
        f'[data]\npath = "runs"\nchannels = [{channels}]\n'
    )
    report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "failures were announced in time" in page
    assert f"RMSE, truth capped at {cap:g}" in page  # the recipe's, which the scores did not tell


def test_goes_on_without_pictures(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pictures").rename(tmp_path / "moved")
    report(checkpoint, out=tmp_path / "page.html")
    assert "data:image/jpeg" not in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "--data FOLDER" in capsys.readouterr().out
    report(checkpoint, data=tmp_path / "moved", out=tmp_path / "page.html")
    assert "data:image/jpeg" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_what_is_missing_is_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        report(checkpoint, data=tmp_path / "none")
    with pytest.raises(UserError, match="is no folder"):
        report(checkpoint, gates=tmp_path / "none")
    with pytest.raises(DataError, match="is no checkpoint"):
        report(tmp_path)
    (checkpoint / "scores.npz").unlink()
    with pytest.raises(DataError, match=r"scores\.npz"):
        report(checkpoint)


def test_the_schema_is_printed_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema()
    assert capsys.readouterr().out == schema_text()
    schema(out=tmp_path / "schema.json")
    assert json.loads((tmp_path / "schema.json").read_text())["$id"] == "urn:edge-sft:envelope:v1"

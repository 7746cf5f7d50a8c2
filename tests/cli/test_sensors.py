"""init and check on sensor readings, as typed."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest


@pytest.fixture
def pumps(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "pumps"
    root.mkdir()
    for pump in range(8):
        factor = 100.0 if pump == 3 else 1.0  # kPa
        rows = [
            f"2024-03-01 06:{k // 60:02d}:{k % 60:02d};{60 + rng.normal():.2f};{factor * (5 + rng.normal() / 20):.3f}"
            for k in range(300)
        ]
        if pump == 5:
            rows[200:] = [row.replace("2024-03-01", "2024-02-29") for row in rows[200:]]
        (root / f"p{pump}.csv").write_text("time;Temp [°C];<b>Druck</b> (bar)\n" + "\n".join(rows) + "\n")
    return root


def edge_sft(*arguments, cwd):
    command = [sys.executable, "-c", "from edge_sft.cli.main import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join(done.stdout.split()), " ".join(done.stderr.split())


def test_readings_are_recognised_checked_and_shown(pumps):
    status, said, _ = edge_sft("init", "pumps", cwd=pumps.parent)
    assert status == 0
    assert "8 files, 2 channels" in said
    status, said, _ = edge_sft("check", "recipe.toml", "--html", "page.html", cwd=pumps.parent)
    assert status == 3
    assert "kPa instead of bar" in said
    assert "The clock jumps back 1 time in 1 run, by 1 day in p5.csv" in said
    page = (pumps.parent / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>Druck</b>" not in page
    assert page.count("<svg") == 2
    HTMLParser().feed(page)


def test_a_folder_of_readings_is_checked_without_a_recipe(pumps):
    (pumps / "p3.csv").unlink()
    (pumps / "p5.csv").unlink()
    status, said, _ = edge_sft("check", pumps, cwd=pumps.parent)
    assert status == 0
    assert "1,800 usable rows of 2 channels" in said
    status, _, error = edge_sft("check", pumps, "--checkpoint", "x", cwd=pumps.parent)
    assert status == 2
    assert "is for pictures" in error


def test_nothing_that_can_be_split_is_one_line(tmp_path):
    (tmp_path / "one.csv").write_text("time,unit,temp\n" + "".join(f"{k},1,{k % 7}\n" for k in range(1, 60)))
    status, _, error = edge_sft("check", "one.csv", cwd=tmp_path)
    assert status == 3
    assert error.startswith("error:")
    assert "has 1 group" in error


def test_training_says_what_is_wrong_with_the_rows(pumps):
    edge_sft("init", "pumps", cwd=pumps.parent)
    recipe = pumps.parent / "recipe.toml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("length = 64", "length = 16"), encoding="utf-8")
    (pumps / "p7.csv").write_text((pumps / "p7.csv").read_text(encoding="utf-8").replace("Temp [", "Temperature ["))
    status, said, error = edge_sft("train", "recipe.toml", cwd=pumps.parent)
    assert status == 0, error
    assert "p7.csv has no column 'Temp [°C]' but 'Temperature [°C]'; was it renamed?" in said
    assert "kPa instead of bar" in said
    assert "The clock jumps back 1 time in 1 run, by 1 day in p5.csv" in said

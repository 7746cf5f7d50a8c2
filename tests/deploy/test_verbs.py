"""The command line over slots: what people see."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small: ModuleType) -> Path:
    folder = tmp_path_factory.mktemp("verbs")
    signer = small.Signer.make(folder / "keys")
    for seed in range(2):
        small.plan(seed).write(folder, signer)
    (folder / "pictures" / "inner").mkdir(parents=True)
    for index, picture in enumerate(small.pictures(3, 40)):
        cv2.imwrite(str(folder / "pictures" / f"{index}.png"), picture)
    (folder / "pictures" / "inner" / "broken.jpg").write_bytes(b"no picture")
    (folder / "pictures" / "notes.txt").write_text("not a picture")
    (folder / "broken").mkdir()
    (folder / "broken" / "x.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    environment = {**os.environ, "EDGE_SFT_ROOT": str(place / "root"), "EDGE_SFT_KEYS": str(place / "keys")}

    def do(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge_sft.cli.main", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=place)

    return do


def test_deploy_again_slots_and_rollback(run: Run) -> None:
    assert "no model was deployed" in run("slots").stdout
    first = run("deploy", "small-1.0.0.edge")
    assert first.returncode == 0, first.stderr
    assert "serving: small 1.0.0 (fp32)" in first.stdout
    assert "p95 ms" in first.stdout
    again = run("deploy", "small-1.0.0.edge")
    assert again.returncode == 0
    assert "already serving" in again.stdout
    assert run("rollback").stderr.startswith("error: pipeline 'main': has nothing to roll back to")
    assert run("deploy", "small-1.0.1.edge", "--to", "local").returncode == 0
    shown = run("slots").stdout
    assert "serves  slot b: small 1.0.1" in shown
    assert "before  slot a: small 1.0.0" in shown
    back = run("rollback")
    assert back.returncode == 0
    assert "small 1.0.0 from slot a" in back.stdout


def test_other_devices_are_refused_in_words(run: Run) -> None:
    done = run("deploy", "small-1.0.0.edge", "--to", "line1")
    assert done.returncode == 2
    assert "Give local, or ssh://user@host[:port]" in done.stderr
    local = run("deploy", "small-1.0.0.edge", "--trust", "maker.pub.pem")
    assert local.returncode == 2
    assert "means something only with --to ssh://" in local.stderr


def test_profiles_are_listed_and_shown(run: Run) -> None:
    listed = run("devices", "list").stdout
    assert "x86-cpu" in listed
    assert "*" in listed
    assert "budget p95" in run("devices", "show", "x86-cpu").stdout
    unknown = run("devices", "show", "toaster")
    assert unknown.returncode == 2
    assert "Known: " in unknown.stderr


def test_predict_goes_on_over_a_broken_picture(run: Run, place: Path) -> None:
    done = run("predict", "small-1.0.0.edge", "pictures", place / "pictures" / "0.png")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert lines[0].split()[1] == str(Path("pictures") / "0.png")
    assert "broken.jpg" in done.stderr
    assert "5 pictures: 1 no_decision" in done.stderr


def test_predict_writes_json_and_csv(run: Run, place: Path) -> None:
    as_json = [
        json.loads(line) for line in run("predict", "small-1.0.0.edge", "pictures", "--json").stdout.splitlines()
    ]
    assert len(as_json) == 4
    assert set(as_json[0]["probabilities"]) == {"good", "scratch", "dent"}
    done = run("predict", "small-1.0.0.edge", "pictures", "--csv", "--out", place / "table.csv")
    assert done.stdout == ""
    rows = list(csv.DictReader(io.StringIO((place / "table.csv").read_text(), newline="")))
    assert [row["verdict"] for row in rows] == [item["verdict"] for item in as_json]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["broken"], 3, "not one of them"),
        (["keys"], 2, "hold no pictures"),
        (["nowhere.png"], 2, "does not exist"),
        (["pictures", "--variant", "fp16"], 2, "It holds: fp32"),
        (["pictures", "--json", "--csv"], 2, "exclude each other"),
    ],
)
def test_predict_says_what_is_wrong(run: Run, arguments: list[str], status: int, said: str) -> None:
    done = run("predict", "small-1.0.0.edge", *arguments)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr

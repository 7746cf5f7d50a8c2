from __future__ import annotations

import csv
import json
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from edge_sft.cli.predict import predict
from edge_sft.errors import UserError
from edge_sft.preprocess import Preprocess, Tiles


def shared(name: str) -> ModuleType:
    """Load tests/contracts/<name>.py, once, under a name that no test folder can shadow."""
    key = f"edge_sft_tests_{name}"
    if key not in sys.modules:
        spec = spec_from_file_location(key, Path(__file__).parent.parent / "contracts" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[key] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


APP = typer.Typer()
APP.command()(predict)


class Place:
    """A folder with a bundle of a kind and pictures."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.dense, small = shared("dense_bundles"), shared("small_bundle")
        self.signer = small.Signer.make(folder / "keys")
        monkeypatch.chdir(folder)

    def bundle(self, kind: str, **changes: Any) -> Path:
        return Path(self.dense.DensePlan(kind, **changes).write(self.folder, self.signer.private))

    def pictures(self, **frames: np.ndarray) -> Path:
        folder = self.folder / "pictures"
        folder.mkdir(exist_ok=True)
        for name, frame in frames.items():
            (folder / f"{name}.png").write_bytes(cv2.imencode(".png", frame)[1].tobytes())
        return folder

    def run(self, *arguments: object) -> Any:
        return CliRunner().invoke(
            APP, [*map(str, arguments), "--key", str(self.signer.public_path)], catch_exceptions=False
        )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", ["anomaly", "detection", "segmentation"])
def test_a_folder_gets_pictures_a_table_lines_and_a_page(kind: str, place: Place) -> None:
    spec = Preprocess(height=64, width=64, tiles=Tiles(overlap=32), mm_per_pixel=0.1)
    frames = {
        "a": place.dense.frame(100, 150),
        "b<i>": place.dense.frame(100, 150, (40, 60, 12)),
        "c": place.dense.frame(100, 150, (10, 10, 12), (60, 100, 12), value=240),
    }
    pictures = place.pictures(**frames)
    (pictures / "broken.jpg").write_bytes(b"no picture")
    done = place.run(place.bundle(kind, preprocess=spec), pictures, "--out", "seen/")
    assert done.exit_code == 0, done.output
    out = place.folder / "seen"
    rows = list(csv.DictReader((out / "predictions.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["verdict"] for row in rows] == ["ok", "nok", "no_decision", "nok"]
    assert [row["marks"] for row in rows] == ["0", "1", "", "2"]
    assert float(rows[1]["longest_mm"]) == pytest.approx(1.2, abs=0.5)
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["verdict"] for line in lines] == [row["verdict"] for row in rows]
    assert sorted(path.name for path in (out / "pictures").iterdir()) == [
        Path(row["picture"]).name for row in rows if row["picture"]
    ]
    shown = cv2.imread(str(out / rows[1]["picture"]))
    assert max(shown.shape) >= 512
    page = (out / "index.html").read_text(encoding="utf-8")
    figures = re.findall(r'<figure class="is-(\w+)">', page)
    assert figures == ["nok", "nok", "no_decision", "ok"]  # worst first
    assert "<script" not in page
    assert "b<i>" not in page
    assert page.count("data:image/jpeg") == 3
    for link in re.findall(r'href="([^"]+)"', page):
        assert (out / link).is_file()
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)


def test_the_page_filters_without_a_script(place: Place) -> None:
    pictures = place.pictures(a=place.dense.frame(64, 64), b=place.dense.frame(64, 64, (8, 8, 12)))
    assert place.run(place.bundle("anomaly"), pictures, "--out", "seen/").exit_code == 0
    page = (place.folder / "seen" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'type="radio" name="pick" id="(\w+)"', page) == ["all", "nok", "ok"]
    assert "#nok:checked~.gallery figure:not(.is-nok)" in page


def test_a_folder_that_exists_needs_no_slash_and_a_file_is_a_file(place: Place) -> None:
    bundle, pictures = place.bundle("detection"), place.pictures(a=place.dense.frame(64, 64, (8, 8, 12)))
    (place.folder / "there").mkdir()
    assert place.run(bundle, pictures, "--out", "there").exit_code == 0
    assert (place.folder / "there" / "index.html").is_file()
    done = place.run(bundle, pictures, "--out", "decisions", "--json")
    assert done.exit_code == 0
    assert json.loads((place.folder / "decisions").read_text())["label"] == "bright"
    (place.folder / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        place.run(bundle, pictures, "--out", "file/")


def test_the_screen_says_how_many_marks(place: Place) -> None:
    pictures = place.pictures(a=place.dense.frame(64, 64), b=place.dense.frame(64, 64, (8, 8, 12)))
    done = place.run(place.bundle("detection"), pictures)
    first, second = done.stdout.splitlines()[:2]
    assert first.split()[0] == "ok"
    assert first.endswith("0 marks")
    assert second.split()[0] == "nok"
    assert second.endswith("score 1.000  bright, 1 mark")


def test_classification_is_drawn_too(place: Place) -> None:
    bundle = shared("small_bundle").plan().write(place.folder, place.signer)
    pictures = place.pictures(a=place.dense.frame(64, 64))
    assert place.run(bundle, pictures, "--out", "seen/").exit_code == 0
    assert len(list((place.folder / "seen" / "pictures").iterdir())) == 1


def test_recorded_rows_make_no_pictures(place: Place) -> None:
    windows = shared("window_bundle")
    factory = windows.Factory(place.folder / "sensors")
    (place.folder / "rows.csv").write_text("time,c0,c1,c2\n0,1,2,3\n")
    keys = place.folder / "sensors" / "keys" / "maker.pub.pem"
    with pytest.raises(UserError, match="recorded rows make no pictures"):
        CliRunner().invoke(
            APP,
            [str(factory.bundle(windows.windowing())), "rows.csv", "--out", "seen/", "--key", str(keys)],
            catch_exceptions=False,
        )

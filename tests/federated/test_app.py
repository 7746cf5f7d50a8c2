"""The Flower app: packed to the same bytes each time, naming what edge_sft brings, finding its site."""

from __future__ import annotations

import io
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="no Flower: its app is not packed")

from edge_sft.errors import UserError
from edge_sft.federated.app import app_directory, app_sha256, build_app, packed_app, place_of

from . import plants


def test_the_app_is_packed_to_the_same_bytes() -> None:
    assert build_app() == build_app()
    assert len(app_sha256()) == 64
    with zipfile.ZipFile(io.BytesIO(build_app())) as archive:
        names = set(archive.namelist())
    assert {"pyproject.toml", "client_app.py", "server_app.py"} <= names
    assert len(build_app()) < 4096


def test_flower_packs_the_folder_itself_to_the_same_app() -> None:
    """What `flwr run` sends is what sites pin, whatever caches lie in the folder."""
    assert sha256(packed_app(app_directory())).hexdigest() == app_sha256()


def test_one_changed_byte_is_another_app(tmp_path: Path) -> None:
    for path in app_directory().glob("*.*"):
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes() + (b"#" if path.name == "client_app.py" else b""))
    assert sha256(packed_app(tmp_path)).hexdigest() != app_sha256()


def test_the_components_are_named_and_load() -> None:
    text = (app_directory() / "pyproject.toml").read_text()
    assert "dependencies = []" in text
    for part in ("client", "server"):
        assert f'{part}app = "{part}_app:app"' in text
        space: dict[str, object] = {}
        exec((app_directory() / f"{part}_app.py").read_text(), space)
        assert type(space["app"]).__name__ == f"{part.title()}App"


def test_a_node_finds_its_site(tmp_path: Path) -> None:
    for number, name in enumerate(("b", "a")):
        plants.write_site(tmp_path / "first" / "sites" / name, name, number)
    run = {"run-dir": str(tmp_path), "run-name": "first"}
    assert place_of({"partition-id": 0}, run).name == "a"
    assert place_of({"partition-id": "1"}, run).name == "b"
    assert place_of({"site-dir": str(tmp_path / "first/sites/a")}, {}).data.name == "data"
    own = place_of({"site-dir": str(tmp_path / "first/sites/a"), "partition-id": 1}, run)
    assert own.name == "a", "what the node says goes before what the run says"
    for node, words in (
        ({}, "does not say where"),
        ({"partition-id": 2}, "there are 2"),
        ({"site-dir": "/no"}, "no site"),
    ):
        with pytest.raises(UserError, match=words):
            place_of(node, run)

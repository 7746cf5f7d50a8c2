"""The same coordinator and sites on Flower's own engine: the same bits as in one process."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="no Flower: its simulation engine is not proved")
pytest.importorskip("ray", reason="no Ray: that the app runs on Flower's simulation engine is not proved")

from edge_sft.federated.app import app_directory
from edge_sft.federated.ray_engine import run_on_ray

from . import plants

CLIENT = """
import plants

from edge_sft.federated.app import make_client_app

app = make_client_app(plants.make)
"""


@pytest.mark.lab
def test_flowers_engine_gives_the_same_bits(tmp_path: Path) -> None:
    text = plants.recipe(rounds=2, share="no-norm", deadline_s=250)
    here = plants.Plants(tmp_path / "here", text)
    wanted = here.run()

    there = plants.Plants(tmp_path / "there", text)
    store = there.store()
    for number, name in enumerate(there.names, start=1):
        plants.write_site(store.folder / "sites" / name, name, number)
    app = tmp_path / "toy-app"
    app.mkdir()
    for name in ("pyproject.toml", "server_app.py"):
        shutil.copyfile(app_directory() / name, app / name)
    (app / "client_app.py").write_text(CLIENT)
    said: list[str] = []
    base = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}:{Path(__file__).parent}"}
    result = run_on_ray(store, said.append, base, app)
    ours = (here.root / "runs/first/result/global.safetensors").read_bytes()
    assert (result / "global.safetensors").read_bytes() == ours, said
    lines = store.lines("round")
    assert lines[-1]["global"] == wanted.base
    assert len(lines[-1]["app_sha256"]) == 64  # what Flower says it ran
    assert {name: row["status"] for name, row in lines[0]["sites"].items()} == dict.fromkeys(there.names, "ok")

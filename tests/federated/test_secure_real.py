"""Secure aggregation over real processes: a SuperLink with TLS and four sites served as plants do; one is sick."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed: secure aggregation over real processes is not proved")

from edge_sft.federated import chain, joining, secure
from edge_sft.federated.app import app_directory
from edge_sft.federated.run_store import RunStore
from edge_sft.federated.weights_file import read

from . import plants
from .sites import NOW
from .test_real_nodes import World, eventually

CLIENT = f"""
import sys

sys.path.insert(0, {str(Path(__file__).parent)!r})

import plants

from edge_sft.federated.app import make_client_app

app = make_client_app(plants.make)
"""
SICK = "plant-d"
NAMES = (*plants.NAMES, SICK)


class Plants(World):
    """The toy plants as real sites."""

    def join(self, name: str, apps: tuple[str, ...]) -> Path:
        data = self.root / f"data-{name}"
        plants.write_data(data, NAMES.index(name) + 1)
        if name == SICK:
            (data / "data.npz").write_bytes(b"weld_porosity")
        path = self.coordinator.invite(name, address=f"127.0.0.1:{self.port}", apps=apps)
        invite, _ = joining.open_invite(path, NOW)
        joining.join(self.root / name, invite, data, self.root / f"{name}.join", version="0.1.0")
        return self.root / name


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Plants]:
    made = Plants(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.lab
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's own way of packing
@pytest.mark.timeout(900)
def test_real_sites_sum_in_secret_and_a_sick_one_gives_nothing_away(world: Plants, tmp_path: Path) -> None:
    files = {name: (app_directory() / name).read_text() for name in ("pyproject.toml", "server_app.py")}
    app = world.write_app("toy-app", {**files, "client_app.py": CLIENT})
    world.superlink()
    eventually(lambda: "startup complete" in (world.root / "superlink.log").read_text().lower(), "the SuperLink is up")
    sites = [world.join(name, (world.digest(app),)) for name in NAMES]
    for site in sites:
        world.flwr("supernode", "register", site / "key.pub", "p")
        world.serve(site)
    for site in sites:
        eventually(lambda site=site: "serving: node" in world.said(site), f"{site.name} serves")
    plain = plants.recipe(rounds=1, quorum=3, compression="none", deadline_s=200)
    store = RunStore.create(tmp_path / "runs", "first", plain + '[federated.privacy]\nkind = "secagg"\n')
    world.flwr("run", app, "p", "--run-config", f'run-dir="{tmp_path}/runs" run-name="first"')
    done = store.folder / "result" / "federated.json"
    stopped = store.folder / "stopped.txt"
    eventually(lambda: done.exists() or stopped.exists(), "the run ends", 400.0)
    assert done.exists(), stopped.read_text()

    (line,) = store.lines("round")
    assert {name: line["sites"][name]["status"] for name in plants.NAMES} == dict.fromkeys(plants.NAMES, "ok")
    wanted = plants.Plants(tmp_path / "here", plain).run().weights
    for name, array in read(store.folder / "result" / "global.safetensors")[0].items():
        np.testing.assert_allclose(array, wanted[name], atol=1e-6)
    kinds = [one["kind"] for one in chain.check(sites[0] / "ledger.jsonl").records]
    assert [kind for kind in kinds if kind.startswith("train.") and kind != "train.final"] == [
        f"train.{step}" for step in secure.STEPS
    ]
    told = [row["why"] for name, row in line["sites"].items() if name not in plants.NAMES]
    assert len(told) == 1
    (said,) = [one["said"] for one in chain.check(world.root / SICK / "ledger.jsonl").records]
    assert said == told[0]
    assert said.startswith("its program failed (")
    database = b"".join(path.read_bytes() for path in world.root.glob("db*"))
    for quoted in (b"weld_porosity", b"data.npz", b"data-plant-d"):
        assert quoted not in database
        assert quoted not in b"".join(path.read_bytes() for path in store.folder.rglob("*") if path.is_file())

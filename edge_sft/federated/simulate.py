"""Plants in one process: the same coordinator and sites as over a network, on one pool of data cut up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_sft import durable
from edge_sft.errors import UserError
from edge_sft.federated.app import app_sha256, make_client_app, make_server_app
from edge_sft.federated.client import MakeLearner
from edge_sft.federated.phase import Waiting
from edge_sft.federated.run_store import RESULT, RunStore
from edge_sft.federated.server import Settings
from edge_sft.federated.settings import section_of
from edge_sft.federated.site_folders import lay_out
from edge_sft.progress import Progress


@dataclass(frozen=True)
class Simulation:
    """What is simulated.

    Attributes:
        recipe: The recipe's file; its data are the pool that is cut.
        runs: Folder of all runs.
        name: The run's name.
        sites: How many.
        partition: ``group``, ``dirichlet(0.5)``, or a partition file.
        seed: Of the cut.
    """

    recipe: Path
    runs: Path
    name: str
    sites: int
    partition: str
    seed: int


def prepare(simulation: Simulation, progress: Progress) -> RunStore:
    """Make the run's folder and the sites' below it, or find them made.

    Raises:
        UserError: Fewer sites than the quorum; the run exists with another recipe; data that cannot be cut so.
        DataError: Data that are none.
    """
    text = simulation.recipe.read_text(encoding="utf-8")
    quorum = section_of(text, str(simulation.recipe)).quorum
    store = RunStore.create(simulation.runs.resolve(), simulation.name, text)
    folders = lay_out(
        simulation.recipe,
        simulation.partition,
        simulation.sites,
        simulation.seed,
        store.folder / "sites",
        progress,
    )
    if len(folders) < quorum:
        raise UserError(f"{len(folders)} sites", f"are fewer than federated.quorum = {quorum}", "Simulate more sites.")
    for site, data in folders.items():
        written = f"site = {json.dumps(site)}\ndata = {json.dumps(data.name)}\n"
        durable.write_text(data.parent / "site.toml", written)
    return store


def simulate(store: RunStore, say: Callable[[str], None], make: MakeLearner | None = None) -> Path:
    """Run a prepared simulation in this process, or what is left of it.

    Args:
        store: What `prepare` returned.
        say: Told what happens.
        make: Makes a recipe's learner; None = those of edge-sft.

    Returns:
        The result's folder.

    Raises:
        EdgeSftError: As the coordinator's loop does.
    """
    from edge_sft.federated.local_grid import LocalGrid, run_server

    folders = sorted(path for path in (store.folder / "sites").iterdir() if path.is_dir())
    grid = LocalGrid(make_client_app(make), dict(enumerate(folders, start=1)))
    server = make_server_app(Settings(say=say, waiting=Waiting(poll_s=0.01, join_s=0.0), app=app_sha256()))
    run_server(server, grid, {"run-dir": str(store.folder.parent), "run-name": store.run})
    return store.folder / RESULT

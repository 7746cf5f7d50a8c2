"""`edge-sft federate simulate`: plants in one process, on one pool of data cut up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edge_sft.cli.console import console, progress
from edge_sft.errors import UserError


def simulate(
    recipe: Annotated[Path, typer.Argument(help="The recipe; its data are cut into sites.")],
    sites: Annotated[int, typer.Option(min=1, help="How many sites.")] = 3,
    partition: Annotated[
        str, typer.Option(help="by=group, by=dirichlet(0.5), or a CSV file with the columns id and site.")
    ] = "by=group",
    seed: Annotated[int | None, typer.Option(min=0, help="Of the cut, instead of the recipe's federated.seed.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    name: Annotated[str | None, typer.Option(help="The run's name; default the recipe's.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="On Flower's own simulation engine instead.")] = False,
    central: Annotated[
        bool, typer.Option("--central", help="Also train on all sites' data together, to compare with.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor cores to use; default all.")] = None,
) -> None:
    """Try federated fine-tuning on one machine. After an interruption run it again: the result is the same."""
    import os
    from importlib.util import find_spec

    from edge_sft.cli.train import prepare as settle

    if find_spec("flwr") is None:
        raise UserError("edge-sft federate", "needs Flower", "pip install 'edge-sft[federated]'")
    _quiet()
    settle(threads)
    from edge_sft.federated import pooled
    from edge_sft.federated import simulate as simulation
    from edge_sft.federated.settings import read_recipe, section_of

    if not recipe.is_file():
        raise UserError(str(recipe), "does not exist", "Write one: edge-sft init DATA")
    loaded = read_recipe(recipe.read_text(encoding="utf-8"), str(recipe))
    chosen = seed if seed is not None else loaded.federated.seed if loaded.federated else 0
    what = simulation.Simulation(recipe, out, name or loaded.name, sites, partition.removeprefix("by="), chosen)
    with progress() as bars:
        store = simulation.prepare(what, bars)
    if ray:
        from edge_sft.federated.ray_engine import run_on_ray

        run_on_ray(store, console.print, os.environ)
        result = store.folder / "result"
    else:
        result = simulation.simulate(store, lambda said: console.print(said, markup=False))
    with progress() as bars:
        pooled.compare(store, bars, central=central, cross=section_of(store.recipe()).cross_site)
    _show(result)


def _quiet() -> None:
    """Flower tells its makers nothing, and its own log stays out of the way."""
    import logging
    import os

    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    import flwr  # noqa: F401 - it sets its log's level as it is imported

    logging.getLogger("flwr").setLevel(logging.WARNING)


def _show(result: Path) -> None:
    import json

    from rich.table import Table

    facts: dict[str, Any] = json.loads((result / "federated.json").read_text(encoding="utf-8"))
    rows: dict[str, dict[str, Any]] = facts["sites"]
    cases = [case for case in ("alone", "global", "personal", "central") if any(row.get(case) for row in rows.values())]
    table = Table(box=None, pad_edge=False)
    for title in ("site", "samples", *cases, "MB up", "MB down"):
        table.add_column(title, justify="left" if title == "site" else "right")
    for site, row in rows.items():
        cells = [_score(row.get(case, {}), str(facts["score"])) for case in cases]
        samples = f"{row['samples'].get('train', 0)}"
        table.add_row(site, samples, *cells, f"{row['bytes_up'] / 1e6:.2f}", f"{row['bytes_down'] / 1e6:.2f}")
    console.print(table)
    sent = facts["bytes"]
    if sent["plain"]:
        share = (sent["up"] + sent["down"]) / sent["plain"]
        console.print(f"{share:.0%} of the bytes that plain federated averaging sends.")
    console.print(f"Result: {result}\nReport: edge-sft federate report {result.parent}", soft_wrap=True, markup=False)


def _score(splits: dict[str, dict[str, float]], name: str) -> str:
    found = (splits.get("test") or splits.get("val") or {}).get(name)
    return "–" if found is None else f"{found:.3f}"

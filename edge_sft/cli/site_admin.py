"""`edge-sft site approve`, `revoke` and `list`: who may take part, at the coordinator."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_sft.cli.console import console

if TYPE_CHECKING:
    from edge_sft.federated.coordinator import Folder
    from edge_sft.federated.superlink import Control

Directory = Annotated[Path | None, typer.Option("--dir", help="The federation's folder.")]


def approve(
    answer: Annotated[Path, typer.Argument(metavar="FILE", help="The SITE.join file that the site sent.")],
    directory: Directory = None,
) -> None:
    """Let a site take part. Compare the key's fingerprint with the site first: whoever holds the key is the site."""
    from edge_sft.federated import sites
    from edge_sft.federated.invite import read_join

    folder, control = _at(directory)
    join = read_join(answer)
    console.print(f"{join.site}: {join.fingerprint}", markup=False)
    site = sites.approve(folder.sites, join, control, _now())
    console.print(f"{site.name} may take part; it comes online by itself within a minute or two")


def revoke(
    name: Annotated[str, typer.Argument(help="The site's name.")],
    directory: Directory = None,
) -> None:
    """Put a site out at once. Its key never comes back; to return, it joins again with a new one."""
    from edge_sft.federated import sites

    folder, control = _at(directory)
    site = sites.revoke(folder.sites, name, control, _now())
    console.print(f"{site.name} is out; what it gave to finished rounds stays in them")


def list_sites(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    directory: Directory = None,
) -> None:
    """List the sites, their keys and whether they are online."""
    import json
    from dataclasses import asdict

    from edge_sft.federated import sites
    from edge_sft.federated.status import site_status

    folder, control = _at(directory)
    known = sites.read(folder.sites).site
    nodes = control.nodes() if known else {}
    rows = [site_status(site, nodes) for site in known]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    for row in rows:
        console.print(f"{row.name:<24} {row.state:<12} {row.seen:<24} {row.fingerprint}", markup=False)
    if not rows:
        console.print("No site is approved yet: edge-sft federate invite SITE")


def _at(directory: Path | None) -> tuple[Folder, Control]:
    from edge_sft.cli.paths import environment, federation_directory
    from edge_sft.federated import coordinator
    from edge_sft.federated.superlink import Control

    folder, federation = coordinator.load(directory or federation_directory())
    return folder, Control(folder, federation, environment())


def _now() -> datetime:
    return datetime.now(timezone.utc)

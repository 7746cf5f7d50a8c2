"""`edge-sft wheelhouse`: what a device without internet is installed from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from edge_sft.cli.console import console, progress


def wheelhouse(
    profile: Annotated[str, typer.Option(help="Device profile: auto, a name, or a .toml file.")] = "auto",
    out: Annotated[Path, typer.Option(help="A folder, or one file: .tar or .zip.")] = Path("wheelhouse"),
    python: Annotated[
        str | None, typer.Option(help="The device's Python, such as 3.10 (default: the profile's, or this one).")
    ] = None,
    glibc: Annotated[
        str | None, typer.Option(help="The device's glibc, such as 2.35 (default: the profile's platforms).")
    ] = None,
    extra: Annotated[
        list[str] | None, typer.Option("--extra", help="Extras of edge-sft; repeatable (default: the profile's).")
    ] = None,
    package: Annotated[
        list[str] | None, typer.Option(help="A package beside edge-sft, such as tensorrt-cu13; repeatable.")
    ] = None,
) -> None:
    """Collect all wheels that a device needs, with their SHA-256. pip's own configuration says where from."""
    from edge_sft.cli.deploy import profile_named
    from edge_sft.deploy import collecting, wheelhouse
    from edge_sft.errors import UserError

    chosen = profile_named(profile)
    minor = glibc.removeprefix("2.") if glibc else None
    if minor is not None and not minor.isdigit():
        raise UserError(f"--glibc {glibc}", "is no version of glibc", "For example: --glibc 2.35")
    target = collecting.target_of(chosen, python=python, glibc_minor=int(minor) if minor else None)
    extras = tuple(extra) if extra else collecting.extras_of(chosen)
    packed = out.suffix in (".tar", ".zip")
    with progress() as bar, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "wheelhouse" if packed else out
        house = collecting.collect(
            folder,
            target,
            profile=chosen.name,
            extras=extras,
            system_packages=collecting.sees_system(chosen),
            packages=package or (),
            watch=bar,
        )
        if packed:
            wheelhouse.pack(folder, out)
    console.print(
        f"[green]complete[/]: {len(house.files)} wheels, {house.size_bytes / 1e6:.0f} MB in {out}, "
        f"edge-sft\\[{','.join(house.extras)}] {house.version} for Python {house.python} on {house.machine}, "
        f"glibc {house.glibc[0]}.{house.glibc[1]} or newer"
    )
    console.print(f"use it with: edge-sft deploy BUNDLE --to ssh://user@host --wheelhouse {out}")

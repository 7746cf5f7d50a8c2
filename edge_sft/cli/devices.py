"""`edge-sft devices`: the device profiles."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_sft.cli.console import console


def list_profiles() -> None:
    """List the device profiles; the one that suits this machine is marked."""
    import platform

    from edge_sft import profile as profiles

    mine = profiles.architecture(platform.machine())
    for name in profiles.shipped():
        profile = profiles.load(name)
        mark = "*" if profile.architecture in ("any", mine) and profile.provider == "cpu" else " "
        console.print(f"{mark} {name:<14} {profile.title}")
    console.print("\n* suits this machine; `--profile auto` takes the first of them")


def show(name: Annotated[str, typer.Argument(help="Name of a profile, or a .toml file.")]) -> None:
    """Show one device profile: engine, permitted variants, budgets."""
    from edge_sft import profile as profiles

    profile = profiles.load(name)
    threads = (
        f"{profile.threads}" if profile.threads else f"all cores but one (here {profiles.usable_threads(profile)})"
    )
    rows = {
        "name": profile.name,
        "title": profile.title,
        "architecture": profile.architecture,
        "engine": f"{profile.engine} on {profile.provider}",
        "variants": ", ".join(profile.variants),
        "threads": threads,
        "budget p95": f"{profile.budgets.latency_p95_ms:g} ms a picture (preprocess, inference, decision)",
        "budget memory": f"{profile.budgets.memory_mb:g} MB a model",
    }
    for key, value in rows.items():
        console.print(f"{key:<14} {value}", soft_wrap=True)

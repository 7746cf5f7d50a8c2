"""`edge-sft init`: look at a folder of pictures, or at files of sensor readings, and write the recipe that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_sft.cli.console import console
from edge_sft.errors import DataError, UserError


def init(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with one folder of pictures a class, a CSV/JSONL manifest of pictures, or a file or folder "
            "of sensor readings (CSV, Parquet, NPZ, MAT)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Recipe to write.")] = Path("recipe.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a recipe that is there.")] = False,
) -> None:
    """Look at labelled pictures or sensor readings and write a commented recipe for them."""
    from rich.markup import escape

    from edge_sft import durable

    if out.exists() and not force:
        raise UserError(str(out), "is there already", "Choose another name with --out, or overwrite it with --force.")
    text = _draft(data, out.absolute().parent)
    durable.write_text(out, text)
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        console.print(escape(line.removeprefix("#").strip()))
    console.print(f"Written: [bold]{escape(str(out))}[/]. Read it once, then: edge-sft check {escape(str(out))}")


def _draft(data: Path, here: Path) -> str:
    from edge_sft.data.sensors.telling import holds_sensor_data

    if data.is_dir() and not any(data.iterdir()):
        remedy = "Put files of readings into it, or pictures in one folder a class, for example ok/ and scratch/."
        raise DataError(str(data), "is an empty folder", remedy)
    if holds_sensor_data(data):
        from edge_sft.data.sensors.drafting import draft_sensor_recipe

        return draft_sensor_recipe(data, here=here)
    from edge_sft.data.recognise import draft_recipe

    return draft_recipe(data, here=here)

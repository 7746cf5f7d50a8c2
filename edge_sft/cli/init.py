"""`edge-sft init`: look at a folder of pictures and write the recipe that fits it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_sft.cli.console import console
from edge_sft.errors import UserError


def init(
    data: Annotated[Path, typer.Argument(help="Folder with one folder of pictures a class, or a CSV/JSONL manifest.")],
    out: Annotated[Path, typer.Option(help="Recipe to write.")] = Path("recipe.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a recipe that is there.")] = False,
) -> None:
    """Look at a folder of labelled pictures and write a commented recipe for it."""
    from rich.markup import escape

    from edge_sft import durable
    from edge_sft.data.recognise import draft_recipe

    if out.exists() and not force:
        raise UserError(str(out), "is there already", "Choose another name with --out, or overwrite it with --force.")
    text = draft_recipe(data, here=out.absolute().parent)
    durable.write_text(out, text)
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        console.print(escape(line.removeprefix("#").strip()))
    console.print(f"Written: [bold]{escape(str(out))}[/]. Read it once, then: edge-sft check {escape(str(out))}")

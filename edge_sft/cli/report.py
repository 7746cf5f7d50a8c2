"""`edge-sft report CHECKPOINT`: how many defects slip through, how many good parts are scrapped, as one page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_sft.cli.console import console
from edge_sft.errors import EdgeSftError, UserError

if TYPE_CHECKING:
    from edge_sft.bundle.manifest import GateResult
    from edge_sft.checkpoint import Scores
    from edge_sft.recipe import Recipe


def report(
    checkpoint: Annotated[Path, typer.Argument(help="folder that `edge-sft train` made")],
    gates: Annotated[Path | None, typer.Option(help="folder that `edge-sft export` made, for the variants")] = None,
    data: Annotated[Path | None, typer.Option(help="where the pictures lie, if they were moved")] = None,
    out: Annotated[Path | None, typer.Option(help="HTML file to write; default report.html in CHECKPOINT")] = None,
) -> None:
    """Write the report of a trained model: one HTML file, readable anywhere."""
    from edge_sft import checkpoint as checkpoints
    from edge_sft import durable
    from edge_sft.report import model_page, sensor_model_page

    meta = checkpoints.read_meta(checkpoint)
    target = out or checkpoint / checkpoints.REPORT
    if meta.task.modality == "window":
        page = sensor_model_page.of_checkpoint(checkpoint, () if gates is None else _gates(gates))
        durable.write_text(target, page)
        console.print(f"Report  {target}", soft_wrap=True, markup=False)
        return
    scores = checkpoints.read_scores(checkpoint)
    recipe = _recipe(checkpoint)
    root = _pictures_root(checkpoint, data, recipe, scores)
    page = model_page.render(
        meta,
        scores,
        () if gates is None else _gates(gates),
        _picture_in(root),
        section=None if recipe is None else recipe.policy,
    )
    durable.write_text(target, page)
    if root is None:
        console.print("The pictures were not found, so the page shows none. Give their folder: --data FOLDER")
    console.print(f"Report  {target}", soft_wrap=True, markup=False)


def _recipe(checkpoint: Path) -> Recipe | None:
    from edge_sft import recipe as recipes
    from edge_sft.checkpoint import RECIPE

    path = checkpoint / RECIPE
    return recipes.load(path) if path.is_file() else None


def _gates(folder: Path) -> tuple[GateResult, ...]:
    from edge_sft.export.variants import read_export

    if not folder.is_dir():
        raise UserError(str(folder), "is no folder", "Give the folder that `edge-sft export` made.")
    return read_export(folder).gates


def _pictures_root(
    checkpoint: Path, data: Path | None, recipe: Recipe | None, scores: dict[str, Scores]
) -> Path | None:
    """Find the data folder: as given, else where the recipe's path leads from here or from above the checkpoint."""
    if data is not None:
        if not data.is_dir():
            raise UserError(str(data), "is no folder", "Give the folder with the pictures.")
        return data
    if recipe is None:
        return None
    # `recipe.load` resolved a relative path against the checkpoint; it was meant from where the recipe lay.
    given = Path(recipe.data.path)
    here = checkpoint.resolve()
    relative = given.relative_to(here) if given.is_relative_to(here) else None
    bases = [] if relative is None else [base / relative for base in (Path.cwd(), *here.parents)]
    first = next((item.ids[0] for item in scores.values() if item.ids), None)
    if first is None:
        return None
    return next((folder for folder in (given, *bases) if (folder / first).is_file()), None)


def _picture_in(root: Path | None) -> Callable[[str], Any]:
    def picture(name: str) -> Any:
        from edge_sft.preprocess import read_image

        if root is None:
            return None
        try:
            return read_image(root / name)
        except EdgeSftError:
            return None  # a picture that went missing since: the page says so in its place

    return picture

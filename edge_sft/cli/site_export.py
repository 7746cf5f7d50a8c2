"""`edge-sft site export`: a site's own model, packed, gated and signed with the site's own data and key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_sft.cli.console import console, progress
from edge_sft.cli.paths import keys_directory, site_directory

if TYPE_CHECKING:
    from edge_sft.export.variants import ExportResult


def export(
    run: Annotated[str | None, typer.Option(help="Which run's model; default: the newest.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for all that is made; default: beside the model.")] = None,
    key: Annotated[
        Path | None, typer.Option(help="Private key that signs; default: the one of `edge-sft keys init`.")
    ] = None,
    directory: Annotated[Path | None, typer.Option("--dir", help="The site's folder.")] = None,
) -> None:
    """Export the personalised model, prove every variant on this site's data, and sign the bundle with its key."""
    from edge_sft import checkpoint as checkpoints
    from edge_sft.bundle.keys import load_private, private_path
    from edge_sft.cli.train import prepare
    from edge_sft.export.bundling import bundle_from_checkpoint
    from edge_sft.federated import site_files

    root = (directory or site_directory()).absolute()
    data = site_files.data_of(root)
    private_key = load_private(key or private_path(keys_directory()))  # before the long work
    checkpoint = site_files.personal_checkpoint(root, run)
    target = out or checkpoint.parent / "bundle"
    prepare(None)
    windows = checkpoints.read_meta(checkpoint).task.modality == "window"
    exported, report = (_windows if windows else _pictures)(checkpoint, data, target)
    bundle = bundle_from_checkpoint(checkpoint, exported, target, private_key, report)
    console.print(f"\nBundle  [bold]{bundle}[/]\nNext    edge-sft deploy {bundle} --to local")


def _windows(checkpoint: Path, data: Path, target: Path) -> tuple[ExportResult, str]:
    from edge_sft import checkpoint as checkpoints
    from edge_sft import sensor_recipe as recipes
    from edge_sft import strict_toml
    from edge_sft.cli.train_sensors import export_by
    from edge_sft.federated.at_site import open_rows, rows_at
    from edge_sft.report import sensor_model_page

    recipe = rows_at(strict_toml.load(checkpoint / checkpoints.RECIPE, recipes.SensorRecipe), data)
    exported = export_by(recipe, checkpoint, target / "export", open_rows)
    return exported, sensor_model_page.of_checkpoint(checkpoint, exported.gates)


def _pictures(checkpoint: Path, data: Path, target: Path) -> tuple[ExportResult, str]:
    from edge_sft import checkpoint as checkpoints
    from edge_sft import recipe as recipes
    from edge_sft import strict_toml
    from edge_sft.cli.build import pictures_of
    from edge_sft.export.variants import export_variants
    from edge_sft.federated.at_site import open_pictures, pictures_at
    from edge_sft.report import model_page

    recipe = pictures_at(strict_toml.load(checkpoint / checkpoints.RECIPE, recipes.Recipe), data)
    with progress() as bar:
        dataset = open_pictures(recipe, bar)
        exported = export_variants(
            checkpoint,
            dataset,
            target / "export",
            variants=recipe.export.variants,
            calibration_pictures=recipe.export.calibration_pictures,
            tolerance_points=recipe.export.tolerance_points,
            progress=bar,
        )
    meta, scores = checkpoints.read_meta(checkpoint), checkpoints.read_scores(checkpoint)
    page = model_page.render(meta, scores, exported.gates, pictures_of(dataset), section=recipe.policy)
    return exported, page

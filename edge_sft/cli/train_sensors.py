"""`edge-sft train` and `edge-sft export` for sensors: the same verbs, over rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge_sft.cli.console import console, progress

if TYPE_CHECKING:
    from edge_sft.checkpoint import CheckpointMeta
    from edge_sft.data.sensors.dataset import SensorDataset
    from edge_sft.export.variants import ExportResult
    from edge_sft.progress import Progress
    from edge_sft.sensor_recipe import SensorRecipe


def train_sensors(recipe: Path, out: Path | None, seed: int | None, threads: int | None) -> None:
    """Teach a model your machines and show what it reached."""
    from edge_sft import sensor_recipe as recipes
    from edge_sft.cli.build import tell
    from edge_sft.cli.train import prepare
    from edge_sft.data.sensors.checking import check_sensors
    from edge_sft.data.sensors.reader import open_sensor_dataset

    prepare(threads)
    from edge_sft.training.sensors.fit import fit_sensors

    loaded = recipes.load(recipe)
    if seed is not None:
        changed = loaded.train.model_copy(update={"seed": seed})
        loaded = loaded.model_copy(update={"train": changed})
    target = out or Path("runs") / loaded.name
    with progress() as bars:
        dataset = open_sensor_dataset(loaded, bars)
        findings = check_sensors(loaded, dataset, bars)
        tell((*findings.of("error"), *findings.of("warning")))  # not fatal: the rows are the user's
        meta = fit_sensors(loaded, dataset, target, recipe_text=recipe.read_text(encoding="utf-8"), progress=bars)
    _show(meta, target, len(dataset.quarantined))


def export_windows(checkpoint: Path, out: Path, recipe: Path | None, data: Path | None) -> ExportResult:
    """Export a sensor checkpoint with the rows it was trained on."""
    from edge_sft.data.sensors.reader import open_sensor_dataset

    return export_by(_recipe(checkpoint, recipe, data), checkpoint, out, open_sensor_dataset)


def export_by(
    loaded: SensorRecipe, checkpoint: Path, out: Path, read: Callable[[SensorRecipe, Progress], SensorDataset]
) -> ExportResult:
    """Export a sensor checkpoint by a recipe whose paths hold here, with the rows that ``read`` finds by it."""
    from edge_sft.export.sensors.variants import export_sensors

    with progress() as bars:
        return export_sensors(
            checkpoint,
            read(loaded, bars),
            out,
            variants=loaded.export.variants,
            tolerance_points=loaded.export.tolerance_points,
            progress=bars,
        )


def _recipe(checkpoint: Path, given: Path | None, data: Path | None) -> SensorRecipe:
    """Load the recipe; the checkpoint's copy names the rows from where the recipe lay, not from there."""
    from edge_sft import checkpoint as checkpoints
    from edge_sft import sensor_recipe as recipes
    from edge_sft import strict_toml
    from edge_sft.cli.export import found_from

    if given is not None:
        loaded = recipes.load(given)
        return loaded if data is None else _with_path(loaded, data)
    loaded = strict_toml.load(checkpoint / checkpoints.RECIPE, recipes.SensorRecipe)
    if loaded.data.events is not None:
        events = loaded.data.events.model_copy(update={"path": str(found_from(loaded.data.events.path, checkpoint))})
        loaded = loaded.model_copy(update={"data": loaded.data.model_copy(update={"events": events})})
    return _with_path(loaded, data or found_from(loaded.data.path, checkpoint))


def _with_path(recipe: SensorRecipe, path: Path) -> SensorRecipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": str(path)})})


def _show(meta: CheckpointMeta, target: Path, quarantined: int) -> None:
    from rich.table import Table

    splits = [split for split in ("train", "val", "test") if meta.metrics.get(split)]
    table = Table(box=None, pad_edge=False)
    for title in (meta.task.kind, *splits):
        table.add_column(title, justify="left" if title == meta.task.kind else "right")
    for name in dict.fromkeys(name for split in splits for name in meta.metrics[split]):
        numbers = [meta.metrics[split].get(name) for split in splits]
        table.add_row(name.replace("_", " "), *("–" if value is None else f"{value:.4g}" for value in numbers))
    console.print(table)
    console.print(f"{meta.backbone} in {meta.training.get('wall_s', 0.0):.0f} s")
    if quarantined:
        console.print(f"[yellow]{quarantined} files were left out[/]; `edge-sft check` names them.")
    console.print(f"Checkpoint: {target}")

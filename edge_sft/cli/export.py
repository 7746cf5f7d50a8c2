"""`edge-sft export CHECKPOINT`: ONNX variants, each proved against the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_sft.cli.console import console, progress
from edge_sft.errors import UserError

if TYPE_CHECKING:
    from edge_sft.export.variants import ExportResult
    from edge_sft.recipe import Recipe


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder that `edge-sft train` made.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the variants; default 'export' in CHECKPOINT.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="The recipe it was trained by; default its copy there.")] = None,
    data: Annotated[Path | None, typer.Option(help="Where the pictures or rows lie, if they were moved.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor cores to use; default all.")] = None,
) -> None:
    """Make the files that devices run, small and fast ones too, and measure what each loses against the model."""
    from edge_sft import checkpoint as checkpoints
    from edge_sft.cli.train import prepare

    prepare(threads)
    from edge_sft.cli import kinds
    from edge_sft.data.reader import open_dataset

    if checkpoints.read_meta(checkpoint, verify=False).task.modality == "window":
        from edge_sft.cli.train_sensors import export_windows

        _show(export_windows(checkpoint, out or checkpoint / "export", recipe, data))
        return
    loaded = _recipe(checkpoint, recipe, data)
    with progress() as bars:
        result = kinds.export(loaded, checkpoint, open_dataset(loaded, bars), out or checkpoint / "export", bars)
    _show(result)


def _recipe(checkpoint: Path, given: Path | None, data: Path | None) -> Recipe:
    """Load the recipe; the checkpoint's copy names the pictures from where the recipe lay, not from there."""
    from edge_sft import checkpoint as checkpoints
    from edge_sft import recipe as recipes
    from edge_sft import strict_toml

    if given is not None:
        loaded = recipes.load(given)
    else:
        checkpoints.read_meta(checkpoint, verify=False)
        loaded = strict_toml.load(checkpoint / checkpoints.RECIPE, recipes.Recipe)
        if data is None:
            data = found_from(loaded.data.path, checkpoint)
    if data is None:
        return loaded
    manifest = loaded.data.manifest
    if manifest is not None and given is None:
        manifest = str(found_from(manifest, checkpoint))
    section = loaded.data.model_copy(update={"path": str(data), "manifest": manifest})
    return loaded.model_copy(update={"data": section})


def found_from(path: str, checkpoint: Path) -> Path:
    """Find what a checkpoint's recipe names from where it lay: here, or above the checkpoint. Raises UserError."""
    bases = (Path.cwd(), *checkpoint.resolve().parents)
    for base in bases:
        if (base / path).exists():
            return base / path
    raise UserError(path, "is not found from here", "Give the recipe it was trained by: --recipe RECIPE")


def _show(result: ExportResult) -> None:
    from edge_sft.cli.bundle import gate_line

    for gate in result.gates:
        file = result.files.get(gate.variant)
        size = f"{file.stat().st_size / 1e6:.1f} MB" if file else "–"
        console.print(f"{size:>9}  {gate_line(gate)}", markup=False)
    console.print(f"\nVariants  {result.golden.parent}", markup=False)

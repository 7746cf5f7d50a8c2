"""`edge-sft train`: fit a model to the recipe's pictures or sensor rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_sft.cli.console import console, progress
from edge_sft.errors import UserError

if TYPE_CHECKING:
    from edge_sft.checkpoint import CheckpointMeta


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe that `edge-sft init` wrote.")],
    out: Annotated[Path | None, typer.Option(help="Where the checkpoint goes; default runs/NAME.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's train.seed.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor cores to use; default all.")] = None,
) -> None:
    """Teach a model your pictures or machines. After an interruption run it again: the result is the same.

    Pictures go on where they were; machines, a matter of minutes, begin anew.
    """
    from edge_sft import recipe as recipes
    from edge_sft import sensor_recipe
    from edge_sft.data.reader import open_dataset

    if sensor_recipe.is_sensor_recipe(recipe):
        from edge_sft.cli.train_sensors import train_sensors

        train_sensors(recipe, out, seed, threads)
        return

    prepare(threads)
    from edge_sft.cli.kinds import fit

    loaded = recipes.load(recipe)
    if seed is not None:
        changed = loaded.train.model_copy(update={"seed": seed})
        loaded = loaded.model_copy(update={"train": changed})
    target = out or Path("runs") / loaded.name
    with progress() as bars:
        dataset = open_dataset(loaded, bars)
        meta = fit(loaded, dataset, target, recipe_text=recipe.read_text(encoding="utf-8"), progress=bars)
    if loaded.task.kind == "classification":
        _show(meta, target, len(dataset.quarantined))
        return
    _show_where(meta, target, len(dataset.quarantined))


def prepare(threads: int | None) -> None:
    """Settle what must be settled before torch is imported, and how many cores it may use.

    Raises:
        UserError: The training parts are not installed.
    """
    import os
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise UserError("edge-sft train", "needs the training parts", "pip install 'edge-sft[train]'")
    # measured beside busy processes: spinning OpenMP threads cost training a factor of up to 16
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what makes cuBLAS deterministic
    if threads is not None:
        import cv2
        import torch

        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)


def _show(meta: CheckpointMeta, target: Path, quarantined: int) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("split", "pictures", "balanced accuracy", "macro F1", "escapes", "overkill"):
        table.add_column(title, justify="left" if title == "split" else "right")
    for split in ("val", "test"):
        numbers = meta.metrics.get(split, {})
        if numbers:
            table.add_row(
                split,
                f"{numbers['pictures']:.0f}",
                f"{numbers['balanced_accuracy']:.3f}",
                f"{numbers['macro_f1']:.3f}",
                _of(numbers, "escaped", "defects"),
                _of(numbers, "scrapped", "goods"),
            )
    console.print(table)
    facts = meta.training
    minutes, cpu = facts["wall_s"] / 60, facts["cpu_s"] / 60
    console.print(
        f"{facts['steps']} steps on {facts['device']} in {minutes:.1f} min ({cpu:.1f} CPU min, "
        f"{facts['threads']} threads, {facts['peak_memory_mb']} MB); kept: {facts['chosen']}"
    )
    if quarantined:
        console.print(f"[yellow]{quarantined} files were left out[/]; `edge-sft check` names them.")
    console.print(f"Checkpoint: {target}")


def _show_where(meta: CheckpointMeta, target: Path, quarantined: int) -> None:
    """Tell of a model that says where: every number of each split that is one."""
    for split in ("val", "test"):
        numbers = meta.metrics.get(split, {})
        told = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items())
        if told:
            console.print(f"{split}: {told}", markup=False)
    for note in meta.training.get("notes", ()):
        console.print(str(note), markup=False)
    if quarantined:
        console.print(f"[yellow]{quarantined} files were left out[/]; `edge-sft check` names them.")
    console.print(f"Checkpoint: {target}")


def _of(numbers: dict[str, float], part: str, whole: str) -> str:
    return f"{numbers[part]:.0f} of {numbers[whole]:.0f}" if whole in numbers else "–"

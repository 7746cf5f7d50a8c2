"""Which training, export and report a kind of picture task has; imported on use."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_sft.checkpoint import CheckpointMeta
    from edge_sft.data.dataset import Dataset
    from edge_sft.export.variants import ExportResult
    from edge_sft.recipe import PictureKind, Recipe

_FIT: dict[PictureKind, str] = {
    "classification": "edge_sft.training.fit",
    "anomaly": "edge_sft.training.anomaly.fit",
    "detection": "edge_sft.training.dense.fit",
    "segmentation": "edge_sft.training.dense.fit",
}


def fit(recipe: Recipe, dataset: Dataset, out: Path, *, recipe_text: str, progress: Any) -> CheckpointMeta:
    """Train by the recipe's kind; see `edge_sft.training.fit.fit`."""
    train: Callable[..., CheckpointMeta] = import_module(_FIT[recipe.task.kind]).fit
    return train(recipe, dataset, out, recipe_text=recipe_text, progress=progress)


def export(recipe: Recipe, checkpoint: Path, dataset: Dataset, target: Path, progress: Any) -> ExportResult:
    """Export and gate by the recipe's kind; see `edge_sft.export.variants.export_variants`."""
    make: Callable[..., ExportResult]
    if recipe.task.kind == "classification":
        from edge_sft.export.variants import export_variants as make
    else:
        from edge_sft.export.dense.variants import export_dense as make
    return make(
        checkpoint,
        dataset,
        target,
        variants=recipe.export.variants,
        calibration_pictures=recipe.export.calibration_pictures,
        tolerance_points=recipe.export.tolerance_points,
        progress=progress,
    )


def report(
    recipe: Recipe, meta: CheckpointMeta, checkpoint: Path, exported: ExportResult, picture: Callable[[str], Any]
) -> str:
    """Make the model's report, one HTML page."""
    from edge_sft import checkpoint as checkpoints

    if recipe.task.kind == "classification":
        from edge_sft.report import model_page

        scores = checkpoints.read_scores(checkpoint)
        return model_page.render(meta, scores, exported.gates, picture, section=recipe.policy)
    from edge_sft.report import where_page

    return where_page.render(meta, checkpoints.read_sensor_scores(checkpoint), exported.gates, picture)

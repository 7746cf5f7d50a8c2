"""`edge-sft build` for a recipe of sensors: the same stages as for pictures, over rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_sft.cli.build import Built, check_page, export_digest, exported_once, tell
from edge_sft.cli.console import progress

if TYPE_CHECKING:
    from edge_sft.checkpoint import CheckpointMeta
    from edge_sft.data.sensors.dataset import SensorDataset
    from edge_sft.export.variants import ExportResult
    from edge_sft.sensor_recipe import SensorRecipe


def build_sensor_bundle(recipe_path: Path, out: Path, key: Path) -> Built:
    """Run every stage from recipe to signed bundle; stages whose inputs did not change are not run again."""
    from edge_sft import durable
    from edge_sft import sensor_recipe as recipes
    from edge_sft.bundle.keys import load_private
    from edge_sft.cli.train import prepare
    from edge_sft.data.sensors.reader import open_sensor_dataset
    from edge_sft.export.bundling import bundle_from_checkpoint
    from edge_sft.report import sensor_model_page

    prepare(None)  # before torch is imported
    from edge_sft.training.sensors.fit import fit_sensors

    private_key = load_private(key)  # before the long work: a missing key is told now
    recipe = recipes.load(recipe_path)
    text = recipe_path.read_text(encoding="utf-8")
    checkpoint = out / "checkpoint"
    with progress() as bar:
        dataset = open_sensor_dataset(recipe, bar)
        check_page = _check(recipe, dataset, out, bar)
        meta = fit_sensors(recipe, dataset, checkpoint, recipe_text=text, progress=bar)  # a finished one as it is
        exported = _export(recipe, meta, dataset, out, bar)
    report = sensor_model_page.of_checkpoint(checkpoint, exported.gates)
    durable.write_text(out / "report.html", report)
    bundle = bundle_from_checkpoint(checkpoint, exported, out, private_key, report)
    return Built(bundle, checkpoint, out / "report.html", check_page, meta, exported)


def _check(recipe: SensorRecipe, dataset: SensorDataset, out: Path, bar: Any) -> Path:
    from edge_sft.data.sensors.checking import check_sensors
    from edge_sft.report import sensor_data_page

    findings = check_sensors(recipe, dataset, bar)
    tell((*findings.of("error"), *findings.of("warning")))
    return check_page(sensor_data_page.render(findings), out)


def _export(recipe: SensorRecipe, meta: CheckpointMeta, dataset: SensorDataset, out: Path, bar: Any) -> ExportResult:
    from edge_sft.export.sensors.variants import export_sensors

    def export(target: Path) -> ExportResult:
        return export_sensors(
            out / "checkpoint",
            dataset,
            target,
            variants=recipe.export.variants,
            tolerance_points=recipe.export.tolerance_points,
            progress=bar,
        )

    return exported_once(out / "export", export_digest(recipe, meta), export)

"""`edge-sft build RECIPE`: check + train + export + gates + report + signed bundle, each stage kept and reused."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from edge_sft.cli.console import console, progress
from edge_sft.cli.paths import keys_directory
from edge_sft.errors import DataError, EdgeSftError

if TYPE_CHECKING:
    from edge_sft.checkpoint import CheckpointMeta
    from edge_sft.data.dataset import Dataset
    from edge_sft.data.findings import Finding
    from edge_sft.export.variants import ExportResult
    from edge_sft.recipe import Recipe
    from edge_sft.sensor_recipe import SensorRecipe


@dataclass(frozen=True)
class Built:
    """Where a build left its artefacts."""

    bundle: Path
    checkpoint: Path
    report: Path
    check_page: Path
    meta: CheckpointMeta
    export: ExportResult


def build(
    recipe: Annotated[Path, typer.Argument(help="recipe.toml, as `edge-sft init` writes it")],
    out: Annotated[Path | None, typer.Option(help="folder for everything made; default runs/NAME")] = None,
    key: Annotated[Path | None, typer.Option(help="private key that signs; default the one of `keys init`")] = None,
) -> None:
    """Check the data, train, export, quantize, prove and sign: one file to deploy. Pictures or sensors."""
    from edge_sft import recipe as recipes
    from edge_sft import sensor_recipe
    from edge_sft.bundle.keys import private_path

    signing = key or private_path(keys_directory())
    if sensor_recipe.is_sensor_recipe(recipe):
        from edge_sft.cli.build_sensors import build_sensor_bundle

        built = build_sensor_bundle(recipe, out or Path("runs") / sensor_recipe.load(recipe).name, signing)
    else:
        built = build_bundle(recipe, out or Path("runs") / recipes.load(recipe).name, signing)
    console.print(f"\nBundle  [bold]{built.bundle}[/]\nReport  {built.report}")
    console.print(f"Next    edge-sft deploy {built.bundle} --to local")


def build_bundle(recipe_path: Path, out: Path, key: Path) -> Built:
    """Run every stage from recipe to signed bundle; stages whose inputs did not change are not run again."""
    from edge_sft import recipe as recipes
    from edge_sft.bundle.keys import load_private
    from edge_sft.cli.train import prepare
    from edge_sft.data.reader import open_dataset

    prepare(None)  # before torch is imported
    from edge_sft.cli.kinds import fit

    private_key = load_private(key)  # before the long work: a missing key is told now
    recipe = recipes.load(recipe_path)
    text = recipe_path.read_text(encoding="utf-8")
    with progress() as bar:
        dataset = open_dataset(recipe, bar)
        check_page = _check(recipe, dataset, out, bar)
        # returns a finished training of the same recipe and pictures as it is, and continues a killed one
        meta = fit(recipe, dataset, out / "checkpoint", recipe_text=text, progress=bar)
        exported = _export(recipe, meta, dataset, out, bar)
    report = _report(recipe, out, meta, exported, dataset)
    bundle = _bundle(out, exported, report, private_key)
    return Built(bundle, out / "checkpoint", out / "report.html", check_page, meta, exported)


def _check(recipe: Recipe, dataset: Dataset, out: Path, bar: Any) -> Path:
    from edge_sft.data.checking import check
    from edge_sft.report import data_page

    findings = check(recipe, dataset, bar)
    tell((*findings.of("error"), *findings.of("warning")))
    return check_page(data_page.render(findings), out)


def tell(findings: tuple[Finding, ...]) -> None:
    """Say what the check found. Not fatal: the data are the user's."""
    for finding in findings:
        colour = "red" if finding.severity == "error" else "yellow"
        console.print(f"[{colour}]{finding.severity}[/]: {escape(finding.text)} {escape(finding.remedy)}")


def check_page(html: str, out: Path) -> Path:
    """Write the check's page."""
    from edge_sft import durable

    page = out / "check.html"
    durable.write_text(page, html)
    return page


def _export(recipe: Recipe, meta: CheckpointMeta, dataset: Dataset, out: Path, bar: Any) -> ExportResult:
    from edge_sft.cli import kinds

    def export(target: Path) -> ExportResult:
        return kinds.export(recipe, out / "checkpoint", dataset, target, bar)

    return exported_once(out / "export", export_digest(recipe, meta), export)


def exported_once(target: Path, made_from: str, export: Callable[[Path], ExportResult]) -> ExportResult:
    """Export into a folder, or read back what an earlier export left there, if it was made from the same."""
    from edge_sft import durable
    from edge_sft.export.variants import read_export

    stamp = target / "made-from.txt"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == made_from:
        with contextlib.suppress(DataError):  # damaged meanwhile: made again
            kept = read_export(target)
            console.print("Exported already from these weights.")
            return kept
    stamp.unlink(missing_ok=True)  # an export that is killed half way must not look finished
    result = export(target)
    durable.write_text(stamp, made_from)
    return result


def export_digest(recipe: Recipe | SensorRecipe, meta: CheckpointMeta) -> str:
    """Digest all that decides what an export leaves."""
    import edge_sft

    parts = (meta.weights_sha256, str(meta.temperature), recipe.export.model_dump_json(), edge_sft.__version__)
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def _report(recipe: Recipe, out: Path, meta: CheckpointMeta, exported: ExportResult, dataset: Dataset) -> str:
    from edge_sft import durable
    from edge_sft.cli import kinds

    html = kinds.report(recipe, meta, out / "checkpoint", exported, pictures_of(dataset))
    durable.write_text(out / "report.html", html)
    return html


def pictures_of(dataset: Dataset) -> Callable[[str], Any]:
    """Return a look-up from a sample's id to its picture, RGB uint8 [H, W, 3], or None when it cannot be read."""
    from edge_sft.preprocess import read_image

    paths = {item.id: item.path for item in dataset.items}

    def picture(sample_id: str) -> Any:
        try:
            return read_image(paths[sample_id]) if sample_id in paths else None
        except EdgeSftError:
            return None

    return picture


def _bundle(out: Path, exported: ExportResult, report: str, private_key: Any) -> Path:
    from edge_sft.export.bundling import bundle_from_checkpoint

    return bundle_from_checkpoint(out / "checkpoint", exported, out, private_key, report)

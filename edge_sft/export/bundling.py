"""Checkpoint + export → signed bundle."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from pathlib import Path

import edge_sft
from edge_sft import checkpoint as files_of
from edge_sft.bundle.keys import PrivateKey
from edge_sft.bundle.manifest import GOLDEN, POLICY, RECIPE, REPORT, Draft, VariantEntry
from edge_sft.bundle.writing import write_bundle
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.export import golden
from edge_sft.export.variants import ExportResult, read_export
from edge_sft.prediction import rfc3339


def bundle_from_checkpoint(
    checkpoint: Path,
    exported: Path | ExportResult,
    out_dir: Path,
    private_key: PrivateKey,
    report_html: str,
    *,
    now: datetime | None = None,
) -> Path:
    """Write ``<out_dir>/<name>-<version>.edge``.

    Args:
        checkpoint: Checkpoint directory; gives task, preprocessing, default policy, recipe and metrics.
        exported: What `export_variants` returned, or the folder it wrote.
        out_dir: Where the bundle goes.
        private_key: Who signs.
        report_html: The model's report, one page.
        now: Time of making; the same time, inputs and key give the same bytes.

    Raises:
        DataError: Checkpoint or export are damaged or not finished.
    """
    meta = files_of.read_meta(checkpoint)
    export = read_export(exported) if isinstance(exported, Path) else exported
    draft = _draft(meta, export, now or datetime.now(timezone.utc))
    files: dict[str, bytes | Path] = {path.name: path for path in export.files.values()}
    files[GOLDEN] = export.golden
    files[POLICY] = (meta.policy.model_dump_json(indent=2) + "\n").encode()
    files[RECIPE] = checkpoint / files_of.RECIPE
    files[REPORT] = report_html.encode()
    return write_bundle(out_dir, draft, files, private_key)


def _draft(meta: CheckpointMeta, export: ExportResult, now: datetime) -> Draft:
    gates = {gate.variant: gate for gate in export.gates}
    entries = [
        VariantEntry(variant=variant, file=path.name, golden_tolerance=golden.tolerance(gates[variant]))
        for variant, path in export.files.items()
    ]
    return Draft(
        name=meta.name,
        version=meta.version,
        created_at=rfc3339(now),
        made_by=f"edge-sft {edge_sft.__version__}",
        task=meta.task,
        preprocess=meta.preprocess,
        variants=tuple(entries),
        gates=export.gates,
        dataset_fingerprint=meta.dataset_fingerprint,
        weights_sha256=meta.weights_sha256,
        metrics={split: _finite(numbers) for split, numbers in meta.metrics.items()},
    )


def _finite(numbers: dict[str, float]) -> dict[str, float]:
    """Leave out what could not be computed (a rate of nothing is NaN); JSON has no word for it."""
    return {name: value for name, value in numbers.items() if math.isfinite(value)}

"""Checkpoint → proven variants: every ONNX file is held against the checkpoint before it may enter a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from edge_sft import checkpoint as files_of
from edge_sft import durable
from edge_sft.bundle.manifest import GOLDEN, GateResult
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.dataset import Dataset
from edge_sft.errors import DataError, EdgeSftError
from edge_sft.export import (
    asking,
    choosing,
    golden,
    half,
    onnx_from_checkpoint,
    operators,
    optimum_int8,
    pictures,
    quantize,
    ranges,
)
from edge_sft.export.gating import Reference
from edge_sft.export.int8 import Quantizer, Source, export_int8
from edge_sft.export.quantize import Int8Variant
from edge_sft.profile import VariantName
from edge_sft.progress import Progress, Silent
from edge_sft.recipe import HUGGING_FACE

if TYPE_CHECKING:
    from torch import nn

GATES = "gates.json"
_TORCH_BATCH = 8


@dataclass(frozen=True)
class ExportResult:
    """What an export left: the variants that passed, every gate, the golden samples."""

    files: dict[VariantName, Path]
    gates: tuple[GateResult, ...]
    golden: Path


def export_variants(
    checkpoint: Path,
    dataset: Dataset,
    out: Path,
    *,
    variants: tuple[VariantName, ...] = ("fp32", "fp16", "int8-trt", "int8-cpu"),
    calibration_pictures: int = 128,
    tolerance_points: float = 0.5,
    progress: Progress | None = None,
) -> ExportResult:
    """Export, quantize and gate.

    Args:
        checkpoint: Checkpoint directory.
        dataset: The data it was trained on; ranges come from train, gates and golden samples from val.
        out: Folder for ``<variant>.onnx``, ``golden.npz`` and, written last, ``gates.json``.
        variants: Which to make; fp32 is always made.
        calibration_pictures: How many pictures measure the quantization ranges.
        tolerance_points: Net loss a variant may have, in percentage points.
        progress: Told how far it is.

    Returns:
        The variants that passed. One that failed is left out and named in ``gates`` with the reason.

    Raises:
        DataError: The data are not those of the checkpoint, or its outputs are not finite.
        BugError: Not even fp32 equals the checkpoint.
    """
    from edge_sft.models.inference import InferenceModule

    meta = files_of.read_meta(checkpoint)
    asking.require_same_data(meta, dataset, checkpoint, parts="pictures, labels", source="pictures")
    return export_module(
        InferenceModule(checkpoint),
        meta,
        dataset,
        out,
        variants=variants,
        calibration_pictures=calibration_pictures,
        tolerance_points=tolerance_points,
        progress=progress or Silent(),
    )


def export_module(
    module: nn.Module,
    meta: CheckpointMeta,
    dataset: Dataset,
    out: Path,
    *,
    variants: tuple[VariantName, ...],
    calibration_pictures: int,
    tolerance_points: float,
    progress: Progress,
) -> ExportResult:
    """Do what `export_variants` does for a module that is in memory: uint8 [N,H,W,3] → probabilities [N,K]."""
    (out / GATES).unlink(missing_ok=True)  # while it is missing, the folder is no finished export
    reference = _reference(module, meta, dataset, tolerance_points, progress)
    progress.start("Exporting to ONNX", 1)
    fp32 = onnx_from_checkpoint.export_fp32(module, meta.task, out)
    progress.advance()
    gates = [asking.fp32_gate(fp32, reference, progress)]
    if "fp16" in variants:
        gates.append(_fp16_gate(fp32, reference, out, progress))
    int8 = [variant for variant in get_args(Int8Variant) if variant in variants]
    if int8:
        spec = meta.geometry
        shown = pictures.for_ranges(dataset, meta.task, spec, calibration_pictures, progress)
        quantizer = optimum_int8.quantized if meta.backbone.startswith(HUGGING_FACE) else quantize.quantized
        given = meta.task.inputs[0].name

        def training(told: Progress) -> dict[str, NDArray[Any]]:
            return {given: pictures.for_tuning(dataset, meta.task, spec, told).images}

        gates += _int8_gates(int8, fp32, shown, reference, out, progress, quantizer, training)
    gates = [operators.noted(gate, out / f"{gate.variant}.onnx") for gate in gates]
    passed = {gate.variant: out / f"{gate.variant}.onnx" for gate in gates if gate.passed}
    chosen = choosing.choose(reference.pictures.labels, reference.probabilities)
    samples = golden.write(meta.task, reference.pictures.subset(chosen), passed, out)
    result = ExportResult(passed, tuple(gates), samples)
    write_gates(result, out)
    return result


def read_export(directory: Path) -> ExportResult:
    """Read a finished export back, its files checked by digest.

    Raises:
        DataError: It is not finished, or a file was changed since.
    """
    path = directory / GATES
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        gates = tuple(GateResult.model_validate(gate) for gate in content["gates"])
        digests = cast("dict[str, str]", content["sha256"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(str(directory), "is no finished export", "Run: edge-sft export CHECKPOINT") from error
    files = {gate.variant: directory / f"{gate.variant}.onnx" for gate in gates if gate.passed}
    for file in (*files.values(), directory / GOLDEN):
        if files_of.sha256_of(file) != digests.get(file.name):
            raise DataError(str(file), "was changed since it was exported", "Run: edge-sft export CHECKPOINT")
    return ExportResult(files, gates, directory / GOLDEN)


def _reference(
    module: nn.Module, meta: CheckpointMeta, dataset: Dataset, tolerance_points: float, progress: Progress
) -> Reference:
    """Let the checkpoint itself answer: what every variant is held against."""
    import torch

    shown = pictures.validation(dataset, meta.task, meta.geometry, progress)
    progress.start("Asking the checkpoint", len(shown))
    answers = []
    with torch.inference_mode():
        for images in shown.batches(_TORCH_BATCH):
            answers.append(module(torch.from_numpy(images)).numpy())
            progress.advance(len(images))
    probabilities = np.concatenate(answers).astype(np.float32)
    asking.require_finite(meta, [probabilities])
    return Reference(meta.task, meta.rule, shown, probabilities, tolerance_points)


def _fp16_gate(fp32: Path, reference: Reference, out: Path, progress: Progress) -> GateResult:
    try:
        file = half.export_fp16(fp32, out)
        gate = reference.prove("fp16", file, progress)
    except EdgeSftError as error:
        return reference.not_made("fp16", error.fact)
    if not gate.passed:
        file.unlink()
    return gate


def _int8_gates(
    variants: list[Int8Variant],
    fp32: Path,
    shown: pictures.Pictures,
    reference: Reference,
    out: Path,
    progress: Progress,
    quantizer: Quantizer,
    training: Callable[[Progress], dict[str, NDArray[Any]]],
) -> list[GateResult]:
    try:
        prepared = quantize.prepare(fp32)
        seen = ranges.observe(prepared, shown.batches(1), len(shown), progress)
        source = Source(prepared, seen, quantizer=quantizer, training=training)
    except EdgeSftError as error:
        return [reference.not_made(variant, error.fact) for variant in variants]
    return [_int8_gate(variant, source, reference, out, progress) for variant in variants]


def _int8_gate(variant: Int8Variant, source: Source, reference: Reference, out: Path, progress: Progress) -> GateResult:
    try:
        return export_int8(variant, source, reference, out, progress)
    except EdgeSftError as error:
        (out / f"{variant}.onnx").unlink(missing_ok=True)
        return reference.not_made(variant, error.fact)


def write_gates(result: ExportResult, out: Path) -> None:
    """Write gates.json durably; written last, it is what makes the folder a finished export."""
    digests = {file.name: files_of.sha256_of(file) for file in (*result.files.values(), result.golden)}
    content = {"schema_version": 1, "gates": [gate.model_dump() for gate in result.gates], "sha256": digests}
    durable.write_text(out / GATES, json.dumps(content, indent=2) + "\n")

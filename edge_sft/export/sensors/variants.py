"""Sensor checkpoint → proven variants: every ONNX file is held against the checkpoint before it may enter a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from edge_sft import checkpoint as files_of
from edge_sft import strict_toml
from edge_sft.bundle.manifest import GateResult
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.sensors.dataset import SensorDataset
from edge_sft.errors import DataError, EdgeSftError
from edge_sft.export import asking, half, onnx_from_checkpoint, operators, quantize, ranges
from edge_sft.export.int8 import Source, export_int8
from edge_sft.export.quantize import Int8Variant
from edge_sft.export.running import Arrays
from edge_sft.export.sensors import front, golden, windows
from edge_sft.export.sensors.reference import SensorReference
from edge_sft.export.variants import GATES, ExportResult, write_gates
from edge_sft.profile import VariantName
from edge_sft.progress import Progress, Silent
from edge_sft.sensor_recipe import RulTask, SensorRecipe

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

_TORCH_BATCH = 32
_FOR_RANGES = 256
_FOR_TUNING = 1024
_INPUTS = ("window", "valid")
_NO_WEIGHTS = "it has no weights: what it multiplies with is the machine's memory, made and measured only there"


def export_sensors(
    checkpoint: Path,
    dataset: SensorDataset,
    out: Path,
    *,
    variants: tuple[VariantName, ...] = ("fp32", "fp16", "int8-trt", "int8-cpu"),
    tolerance_points: float = 0.5,
    progress: Progress | None = None,
) -> ExportResult:
    """Export, quantize and gate.

    Args:
        checkpoint: Checkpoint directory.
        dataset: The runs it was trained on; ranges come from train, gates and golden samples from val.
        out: Folder for ``<variant>.onnx``, ``golden.npz`` and, written last, ``gates.json``.
        variants: Which to make; fp32 is always made.
        tolerance_points: What a variant may lose: percentage points; for remaining life also per cent of the error.
        progress: Told how far it is.

    Returns:
        The variants that passed. One that failed is left out and named in ``gates`` with the reason.

    Raises:
        DataError: The data are not those of the checkpoint, nothing in them proves anything, or the checkpoint's
            outputs are not finite.
        BugError: Not even fp32 equals the checkpoint.
    """
    from edge_sft.models.sensors.inference import load

    meta = files_of.read_meta(checkpoint)
    asking.require_same_data(meta, dataset, checkpoint, parts="rows, groups", source="files")
    recipe = strict_toml.load(checkpoint / files_of.RECIPE, SensorRecipe)
    return export_module(
        load(checkpoint),
        meta,
        dataset,
        out,
        local=_defaults(meta, checkpoint),
        cap=recipe.task.cap if isinstance(recipe.task, RulTask) else float("inf"),
        variants=variants,
        tolerance_points=tolerance_points,
        progress=progress or Silent(),
    )


def export_module(
    module: nn.Module,
    meta: CheckpointMeta,
    dataset: SensorDataset,
    out: Path,
    *,
    local: Arrays,
    cap: float,
    variants: tuple[VariantName, ...],
    tolerance_points: float,
    progress: Progress,
) -> ExportResult:
    """Do what `export_sensors` does for a module in memory: the task's inputs → a tuple of the task's outputs.

    ``local`` holds the graph's inputs that are the same for all windows.
    """
    (out / GATES).unlink(missing_ok=True)  # while it is missing, the folder is no finished export
    shown = windows.validation(dataset, meta.windowing, local, progress)
    reference = _reference(module, meta, shown, tolerance_points, cap, progress)
    progress.start("Exporting to ONNX", 1)
    fp32 = onnx_from_checkpoint.export_fp32(module, meta.task, out, _tensors(meta, shown.take([0, len(shown) - 1])))
    progress.advance()
    gates = [asking.fp32_gate(fp32, reference, progress)]
    narrow = [variant for variant in get_args(VariantName) if variant in variants and variant != "fp32"]
    if narrow:
        ranged = windows.for_ranges(dataset, meta.windowing, local, _FOR_RANGES, progress)
        gates += _narrow_gates(narrow, fp32, ranged, reference, out, progress, _training(dataset, meta, local))
    gates = [operators.noted(gate, out / f"{gate.variant}.onnx") for gate in gates]
    passed = {gate.variant: out / f"{gate.variant}.onnx" for gate in gates if gate.passed}
    result = ExportResult(passed, tuple(gates), golden.write(reference, passed, out))
    write_gates(result, out)
    return result


def _defaults(meta: CheckpointMeta, checkpoint: Path) -> Arrays:
    """Read what stands in for a machine's own inputs until it is commissioned."""
    names = [spec.name for spec in meta.task.inputs if spec.name not in _INPUTS]
    scores = files_of.read_sensor_scores(checkpoint) if names else {}
    missing = [name for name in names if f"default/{name}" not in scores]
    if missing:
        raise DataError(str(checkpoint), f"has no default for its local inputs {missing}", "Train again.")
    return {name: scores[f"default/{name}"].astype(np.float32) for name in names}


def _reference(
    module: nn.Module,
    meta: CheckpointMeta,
    shown: windows.Shown,
    tolerance_points: float,
    cap: float,
    progress: Progress,
) -> SensorReference:
    """Let the checkpoint itself answer: what every variant is held against."""
    import torch

    _check_truth(meta, shown)
    names = [spec.name for spec in meta.task.outputs]
    said: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    progress.start("Asking the checkpoint", len(shown))
    with torch.inference_mode():
        for start in range(0, len(shown), _TORCH_BATCH):
            part = shown.take(list(range(start, min(start + _TORCH_BATCH, len(shown)))))
            answers = module(*_tensors(meta, part))
            for name, answer in zip(names, answers, strict=True):
                said[name].append(answer.numpy())
            progress.advance(len(part))
    whole: Arrays = {name: np.concatenate(parts) for name, parts in said.items()}
    asking.require_finite(meta, whole.values())
    return SensorReference(meta.task, meta.policy, shown, whole, tolerance_points, cap)


def _check_truth(meta: CheckpointMeta, shown: windows.Shown) -> None:
    if meta.task.kind == "classification" and not (shown.label >= 0).any():
        raise DataError(meta.name, "has no validation window whose label is known", "Label a run of the val split.")
    if meta.task.kind == "regression" and not np.isfinite(shown.rul).any():
        raise DataError(
            meta.name, "has no validation window whose remaining life is known", "Put a failed run into the val split."
        )


def _tensors(meta: CheckpointMeta, shown: windows.Shown) -> tuple[torch.Tensor, ...]:
    """Return the module's arguments in the task's order."""
    import torch

    block = next(shown.blocks(len(shown)))
    return tuple(torch.from_numpy(np.ascontiguousarray(block[spec.name])) for spec in meta.task.inputs)


def _narrow_gates(
    variants: list[VariantName],
    fp32: Path,
    shown: windows.Shown,
    reference: SensorReference,
    out: Path,
    progress: Progress,
    training: Callable[[Progress], Arrays],
) -> list[GateResult]:
    try:
        prepared = quantize.prepare(fp32)
        seen = ranges.observe(prepared, shown.blocks(1), len(shown), progress)
        fronts = list(front.fronts(prepared, seen))
    except EdgeSftError as error:
        return [reference.not_made(variant, error.fact) for variant in variants]
    if not fronts:
        return [reference.not_made(variant, _why_none(variant, prepared)) for variant in variants]
    source = Source(prepared, seen, front.never_int8(prepared, fronts[0]), training=training)
    return [_narrow_gate(variant, source, fronts, reference, out, progress) for variant in variants]


def _training(dataset: SensorDataset, meta: CheckpointMeta, local: Arrays) -> Callable[[Progress], Arrays]:
    """Return what cuts training windows for quantization-aware fine-tuning."""

    def cut(progress: Progress) -> Arrays:
        shown = windows.for_ranges(dataset, meta.windowing, local, _FOR_TUNING, progress)
        return next(shown.blocks(len(shown)))

    return cut


def _why_none(variant: VariantName, model: onnx.ModelProto) -> str:
    if not front.memories(model):
        return "no layer of it multiplies with weights after the raw units; it is as small as it gets"
    if variant == "fp16":
        return (
            "its products with the machine's memory are squared into the score: beyond half precision when it is loud"
        )
    return _NO_WEIGHTS


def _narrow_gate(
    variant: VariantName,
    source: Source,
    fronts: list[frozenset[str]],
    reference: SensorReference,
    out: Path,
    progress: Progress,
) -> GateResult:
    try:
        if variant == "fp16" or variant == "fp32":  # noqa: PLR1714 (narrows the type)
            return _fp16_gate(source, fronts, reference, out, progress)
        return _int8_gate(variant, source, reference, out, progress)
    except EdgeSftError as error:
        (out / f"{variant}.onnx").unlink(missing_ok=True)
        return reference.not_made(variant, error.fact)


def _int8_gate(
    variant: Int8Variant, source: Source, reference: SensorReference, out: Path, progress: Progress
) -> GateResult:
    if front.memories(source.model) and not front.layer_names(source.model):
        return reference.not_made(variant, _NO_WEIGHTS)
    if not set(quantize.layers(source.model)) - source.never:
        return reference.not_made(variant, "all of it but the last layer needs float32")
    return export_int8(variant, source, reference, out, progress)


def _fp16_gate(
    source: Source, fronts: list[frozenset[str]], reference: SensorReference, out: Path, progress: Progress
) -> GateResult:
    """Write fp16 with the smallest float32 front that passes; where none does, name the least bad and leave no file."""
    attempts: list[GateResult] = []
    for kept in fronts:
        attempts.append(_fp16_attempt(source, kept, reference, out, progress))
        if attempts[-1].passed:
            return attempts[-1]
    (out / "fp16.onnx").unlink(missing_ok=True)
    return min(attempts, key=lambda gate: (gate.net_loss_points, gate.max_score_difference))


def _fp16_attempt(
    source: Source, kept: frozenset[str], reference: SensorReference, out: Path, progress: Progress
) -> GateResult:
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(source.model)
    note = f"{len(kept)} of {len(copy.graph.node)} operators stay float32"
    try:
        return reference.prove("fp16", half.save(copy, kept, out), progress, note)
    except EdgeSftError as error:  # e.g. an index that half precision puts beyond its table
        return reference.not_made("fp16", error.fact)

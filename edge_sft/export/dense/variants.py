"""Checkpoint of a model that says where → proven variants: each is held against the checkpoint before it is bundled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from edge_sft import checkpoint as files_of
from edge_sft import strict_toml
from edge_sft.bundle.manifest import GateResult
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.dataset import Dataset
from edge_sft.errors import BugError, EdgeSftError
from edge_sft.export import asking, half, onnx_from_checkpoint, operators, quantize, ranges, running
from edge_sft.export.dense import defaults, golden
from edge_sft.export.dense.reference import BATCH, FEATURES, DenseReference
from edge_sft.export.dense.tiles import Reader, Tiles
from edge_sft.export.int8 import Source, export_int8
from edge_sft.export.running import Arrays
from edge_sft.export.sensors.front import after_memory
from edge_sft.export.variants import GATES, ExportResult, write_gates
from edge_sft.memory_layout import Layout
from edge_sft.policy import PictureAnomalyPolicy, PicturePolicy
from edge_sft.profile import VariantName
from edge_sft.progress import Progress, Silent
from edge_sft.recipe import Recipe
from edge_sft.slots import picture_memory

if TYPE_CHECKING:
    from torch import nn

_TORCH_BATCH = 8
_FOR_TUNING = 512
_BANK = "bank"
_DEFAULT = "default/"  # what a checkpoint's saved arrays call the default of a local input
# A variant's own memory is made of so many good tiles at most; the checkpoint's of all.
_REMEMBERED = 1024


def export_dense(
    checkpoint: Path,
    dataset: Dataset,
    out: Path,
    *,
    variants: tuple[VariantName, ...] = ("fp32", "fp16", "int8-trt", "int8-cpu"),
    calibration_pictures: int = 128,
    tolerance_points: float = 0.5,
    progress: Progress | None = None,
) -> ExportResult:
    """Export, quantize and gate; arguments and errors as those of `edge_sft.export.variants.export_variants`."""
    meta = files_of.read_meta(checkpoint)
    asking.require_same_data(meta, dataset, checkpoint, parts="pictures, marks", source="pictures")
    recipe = strict_toml.load(checkpoint / files_of.RECIPE, Recipe)
    bar = progress or Silent()
    (out / GATES).unlink(missing_ok=True)  # while it is missing, the folder is no finished export
    reader = Reader(meta.task, recipe.task.labels, recipe.task.ok, meta.geometry)
    making = _Making(checkpoint, meta, dataset, reader, out, bar)
    reference = making.reference(tolerance_points)
    bar.start("Exporting to ONNX", 1)
    fp32 = making.fp32(reference)
    bar.advance()
    gates = [asking.fp32_gate(fp32, reference, bar)]
    narrow = [variant for variant in get_args(VariantName) if variant in variants and variant != "fp32"]
    if narrow:
        gates += making.narrow(narrow, fp32, reference, calibration_pictures)
    gates = [operators.noted(gate, out / f"{gate.variant}.onnx") for gate in gates]
    passed = {gate.variant: out / f"{gate.variant}.onnx" for gate in gates if gate.passed}
    for variant, file in passed.items():
        defaults.embed(file, reference.made[variant])
    result = ExportResult(passed, tuple(gates), golden.write(reference, passed, out))
    write_gates(result, out)
    return result


@dataclass(frozen=True)
class _Making:
    checkpoint: Path
    meta: CheckpointMeta
    dataset: Dataset
    reader: Reader
    out: Path
    bar: Progress

    def module(self) -> nn.Module:
        if self.meta.task.kind == "anomaly":
            from edge_sft.models import anomaly

            return anomaly.load(self.checkpoint)
        from edge_sft.models import dense

        return dense.load(self.checkpoint)

    def local(self) -> Arrays:
        """Return the defaults of the graph's local inputs."""
        names = [spec.name for spec in self.meta.task.inputs if spec.default]
        saved = files_of.read_sensor_scores(self.checkpoint) if names else {}
        return {name: saved[_DEFAULT + name].astype(np.float32) for name in names}

    def reference(self, tolerance_points: float) -> DenseReference:
        """Let the checkpoint itself answer: what every variant is held against."""
        shown = self.reader.validation(self.dataset, self.bar)
        local = self.local()
        answers = _answers(self.module(), self.meta, shown, local, self.bar)
        asking.require_finite(self.meta, answers.values())
        remember = self._remembering(local) if _BANK in local else None
        return DenseReference(self.meta.task, _rule(self.meta), shown, answers, local, tolerance_points, remember)

    def fp32(self, reference: DenseReference) -> Path:
        """Export the checkpoint; its local inputs have no defaults yet."""
        import torch

        shown = reference.shown.take([0, len(reference.shown) - 1])
        given = {"image": shown.images, **reference.local}
        examples = tuple(torch.from_numpy(np.ascontiguousarray(given[spec.name])) for spec in self.meta.task.inputs)
        return onnx_from_checkpoint.export_fp32(self.module(), self.meta.task, self.out, examples)

    def narrow(
        self, variants: list[VariantName], fp32: Path, reference: DenseReference, pictures: int
    ) -> list[GateResult]:
        """Make and gate fp16 and INT8."""
        shown = self.reader.for_ranges(self.dataset, pictures, self.bar)
        blocks = ({**block, **reference.local} for block in shown.blocks(1))
        try:
            prepared = quantize.prepare(fp32)
            seen = ranges.observe(prepared, blocks, len(shown), self.bar)
            never = after_memory(prepared) if reference.local else frozenset[str]()
            source = Source(prepared, seen, never, training=self._training(reference.local))
        except EdgeSftError as error:
            return [reference.not_made(variant, error.fact) for variant in variants]
        return [self._narrow(variant, source, reference) for variant in variants]

    def _narrow(self, variant: VariantName, source: Source, reference: DenseReference) -> GateResult:
        try:
            if variant == "fp16" or variant == "fp32":  # noqa: PLR1714 (narrows the type)
                return self._fp16(source, reference)
            return export_int8(variant, source, reference, self.out, self.bar)
        except EdgeSftError as error:
            (self.out / f"{variant}.onnx").unlink(missing_ok=True)
            return reference.not_made(variant, error.fact)

    def _fp16(self, source: Source, reference: DenseReference) -> GateResult:
        import onnx

        copy = onnx.ModelProto()
        copy.CopyFrom(source.model)
        note = "comparing with the memory stays float32" if source.never else ""
        gate = reference.prove("fp16", half.save(copy, source.never, self.out), self.bar, note)
        if not gate.passed:
            (self.out / "fp16.onnx").unlink()
        return gate

    def _training(self, local: Arrays) -> Callable[[Progress], Arrays]:
        def read(progress: Progress) -> Arrays:
            shown = self.reader.for_ranges(self.dataset, _FOR_TUNING, progress)
            return {"image": shown.images, **local}

        return read

    def _remembering(self, local: Arrays) -> Callable[[Path, Progress], Arrays]:
        """Return what makes a variant's own memory of its own features; the good pictures are read once."""
        held: list[Tiles] = []
        policy = _rule(self.meta)
        if not isinstance(policy, PictureAnomalyPolicy):
            raise BugError(self.meta.name, f"has a policy for {policy.kind}", "Please report it.")
        left_out = frozenset(self.meta.training.get("left_out", ()))

        def remember(model: Path, progress: Progress) -> Arrays:
            if not held:
                held.append(self.reader.good_train(self.dataset, _REMEMBERED, progress, left_out))
            shown = held[0]
            progress.start("Making its own memory", len(shown))
            blocks = ({**block, **local} for block in shown.blocks(BATCH))
            features = running.features(model, blocks, FEATURES, progress)
            sizes = features.shape[1], features.shape[2]
            bank = local[_BANK]
            examples = bank.shape[0] - 1 - sizes[1] - sizes[0] - sizes[0] * bank.shape[1]
            layout = Layout(sizes[0], sizes[1], bank.shape[1], examples)
            groups = [shown.groups[place] for place in shown.picture]
            alike = self.meta.geometry.tiles is not None
            rate = max(policy.false_reject_rate, 1 / (len(features) + 1) + 1e-12)
            memory = picture_memory.fit(features, groups, layout, rate=rate, clean=False, alike=alike)
            return {_BANK: memory.bank}

        return remember


def _rule(meta: CheckpointMeta) -> PicturePolicy:
    if not isinstance(meta.policy, PicturePolicy):
        raise BugError(meta.name, f"has a policy for {meta.policy.kind}", "Please report it.")
    return meta.policy


def _answers(module: nn.Module, meta: CheckpointMeta, shown: Tiles, local: Arrays, progress: Progress) -> Arrays:
    import torch

    names = [spec.name for spec in meta.task.outputs]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names if name != FEATURES}
    fixed = tuple(torch.from_numpy(local[spec.name]) for spec in meta.task.inputs if spec.default)
    progress.start("Asking the checkpoint", len(shown))
    with torch.inference_mode():
        for block in shown.blocks(_TORCH_BATCH):
            told = module(torch.from_numpy(block["image"]), *fixed)
            told = told if isinstance(told, tuple) else (told,)
            for name, answer in zip(names, told, strict=True):
                if name in parts:
                    parts[name].append(answer.numpy())
            progress.advance(len(block["image"]))
    return {name: np.concatenate(blocks) for name, blocks in parts.items()}

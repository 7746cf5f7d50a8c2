"""Quantization-aware fine-tuning: where rounding alone fails its gate, the same network fine-tuned passes."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_sft.bundle.manifest import GateResult
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.dataset import Dataset
from edge_sft.export import onnx_torch, pictures, quantize, ranges, running, torch_operators
from edge_sft.export.quantize import Int8Variant
from edge_sft.export.sensors import front
from edge_sft.export.variants import ExportResult, export_module
from edge_sft.progress import Silent

from .test_nvidia import parse, rtx
from .test_nvidia_families import families

if TYPE_CHECKING:
    from torch import nn

onnx = pytest.importorskip("onnx", reason="onnx is not installed: fine-tuning under rounding is not proved")
__all__ = ["families", "rtx"]

VARIANTS: tuple[Int8Variant, Int8Variant] = ("int8-trt", "int8-cpu")
APART = 12.0  # powers of two between the loudest and the quietest channel


class Told:
    """Progress that remembers what was begun."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def start(self, title: str, total: int) -> None:
        self.titles.append(title)

    def advance(self, units: int = 1, note: str = "") -> None:
        """Do nothing."""


@pytest.fixture(scope="module")
def fragile(torch: ModuleType, dataset: Dataset, meta: CheckpointMeta) -> nn.Module:
    """Depthwise channels of very different size, as folded norms leave them: one scale cannot fit them all."""
    from torch import nn

    torch.manual_seed(0)
    first = nn.Conv2d(3, 16, 3, 2, 1)
    depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
    pointwise, more, head = nn.Conv2d(16, 24, 1), nn.Conv2d(24, 24, 3, 2, 1), nn.Linear(24, 3)

    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(first, nn.ReLU(), depthwise, nn.ReLU(), pointwise, nn.Hardswish())
            self.tail = nn.Sequential(more, nn.Hardswish())
            self.head = head

        def forward(self, image: Any) -> Any:
            maps = self.tail(self.body((image.float().permute(0, 3, 1, 2) - 127) / 128))
            return torch.softmax(self.head(maps.amax(dim=(2, 3))), dim=1)

    module = Fragile()
    shown = pictures.read(dataset.split("train"), meta.task, meta.preprocess, Silent(), "")
    images, labels = torch.from_numpy(shown.images), torch.from_numpy(shown.labels)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.nll_loss(torch.log(module(images) + 1e-6), labels).backward()
        optimizer.step()
    factors = 2 ** torch.linspace(-APART / 2, APART / 2, 16)[torch.randperm(16)]
    with torch.no_grad():  # the same function: ReLU lets factors pass
        depthwise.weight *= factors.view(-1, 1, 1, 1)
        depthwise.bias *= factors  # type: ignore[operator]
        pointwise.weight /= factors.view(1, -1, 1, 1)
    return module.eval()


def exported(
    module: nn.Module,
    dataset: Dataset,
    meta: CheckpointMeta,
    out: Path,
    progress: Any,
    variants: Any = ("fp32", *VARIANTS),
) -> ExportResult:
    return export_module(
        module,
        meta,
        dataset,
        out,
        variants=variants,
        calibration_pictures=32,
        tolerance_points=0.5,
        progress=progress,
    )


@pytest.fixture(scope="module")
def saved(
    fragile: nn.Module, dataset: Dataset, meta: CheckpointMeta, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ExportResult, Told]:
    told = Told()
    return exported(fragile, dataset, meta, tmp_path_factory.mktemp("qat"), told), told


def gate_of(result: ExportResult, variant: Int8Variant) -> GateResult:
    return next(gate for gate in result.gates if gate.variant == variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_rounding_alone_loses_fine_tuning_saves(saved: tuple[ExportResult, Told], variant: Int8Variant) -> None:
    gate = gate_of(saved[0], variant)
    assert gate.passed
    assert re.search(r"made by quantization-aware fine-tuning \(rounding alone: loses \d", gate.note), gate.note
    made = onnx.load(saved[0].files[variant])
    dequantized = {node.output[0] for node in made.graph.node if node.op_type == "DequantizeLinear"}
    layers = [node for node in made.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert all(set(node.input[:2]) <= dequantized for node in layers[:-1])  # none was left float


def test_the_time_that_it_takes_is_told(saved: tuple[ExportResult, Told]) -> None:
    begun = [title for title in saved[1].titles if title.startswith("Fine-tuning")]
    assert len(begun) == 2 * len(VARIANTS)  # in small steps and in large ones
    assert all(re.search(r" under its rounding \(about \d+ min\)$", title) for title in begun)


def test_nvidia_takes_what_was_fine_tuned(rtx: Any, saved: tuple[ExportResult, Told]) -> None:
    engine, complaints = parse(rtx, saved[0].files["int8-trt"])
    assert complaints == []
    assert engine is not None


def test_it_learns_from_training_pictures_only_and_again_the_same(
    dataset: Dataset, meta: CheckpointMeta, saved: tuple[ExportResult, Told], fragile: nn.Module, tmp_path: Path
) -> None:
    shown = pictures.for_tuning(dataset, meta.task, meta.preprocess, Silent())
    assert {item.split for item in dataset.items if item.id in shown.ids} == {"train"}
    again = exported(fragile, dataset, meta, tmp_path, Silent(), variants=("fp32", "int8-cpu"))
    assert again.files["int8-cpu"].read_bytes() == saved[0].files["int8-cpu"].read_bytes()


def test_an_unknown_operator_is_named_and_nothing_fails(
    fragile: nn.Module, dataset: Dataset, meta: CheckpointMeta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {kind: run for kind, run in torch_operators.OPERATORS.items() if kind != "Relu"}
    monkeypatch.setattr(onnx_torch, "OPERATORS", known)
    result = exported(fragile, dataset, meta, tmp_path, Silent())
    for variant in VARIANTS:  # what exclusion could do stands
        gate = gate_of(result, variant)
        assert gate.passed
        assert "layers kept float" in gate.note
        assert gate.note.endswith("fine-tuning is not possible: the operator Relu is not known to it")


def test_of_a_sensor_graph_only_quantized_layers_learn(
    families: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_sft.export import qat

    monkeypatch.setattr(qat, "STEPS", 10)
    family = next(f for f in families.sensor_families() if f.name == "remaining life mlp+tcn")
    fp32 = family.make(tmp_path)["fp32"]
    model = quantize.prepare(fp32)
    shape = [32, *(axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[1:])]
    window = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    given = {"window": window, "valid": np.ones_like(window)}
    seen = ranges.observe(model, ({k: v[i : i + 1] for k, v in given.items()} for i in range(8)), 8, Silent())
    never = front.never_int8(model, next(iter(front.fronts(model, seen))))
    chosen = ranges.ranges(seen, "minmax")
    learnt = qat.tune(model, quantize.quantized(model, chosen, "int8-trt", never), chosen, given, Silent(), "windows")
    pairs = zip(model.graph.initializer, learnt.model.graph.initializer, strict=True)
    moved = {before.name for before, after in pairs if before != after}
    layers = [node for node in model.graph.node if node.name in set(quantize.layers(model)) - never]
    assert {node.input[1] for node in layers} <= moved <= {name for node in layers for name in node.input[1:]}
    made = quantize.quantized(learnt.model, learnt.ranges, "int8-trt", never)
    said = running.outputs(quantize.save(made, "int8-trt", tmp_path), [given])
    assert all(np.isfinite(array).all() for array in said.values())

"""Every model family: listed in NVIDIA's tables, taken by its real parser and builder, quantized as it wants it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_sft.export import operators

from .test_nvidia import parse, rtx

onnx = pytest.importorskip("onnx", reason="onnx is not installed: no family's export is looked at")
pytest.importorskip("torch", reason="torch is not installed: no family's export is looked at")
__all__ = ["rtx"]

SOURCE = Path(__file__).parents[2] / "benchmarks" / "families.py"
PICTURES = (
    "efficientnet_lite0",
    "mobilenet_v3_small",
    "resnet18",
    "efficientnet_b0",
    "convnext_tiny",
    "timm/resnet10t",
)
# each holds what the simpler ones of its kind hold
SENSORS = (
    "remaining life mlp+tcn by operating condition",
    "faults: all views",
    "anomaly bank: neighbours",
    "anomaly t2q: components",
    "anomaly encoder: core-set",
)
NOT_MADE = {
    "anomaly bank: neighbours": {"int8-trt"},
    "anomaly t2q: components": {"fp16", "int8-trt"},
}


@pytest.fixture(scope="module")
def families() -> ModuleType:
    spec = importlib.util.spec_from_file_location("families_of_models", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=[*PICTURES, *SENSORS])
def made(request: pytest.FixtureRequest, families: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A family's name and its variants: files, or why there is none."""
    if request.param in PICTURES and not request.param.startswith("efficientnet_lite"):
        library = "timm" if "/" in request.param else "torchvision"
        pytest.importorskip(library, reason=f"{library} is not installed: {request.param} is not proved")
    known = {family.name: family for family in (*families.cut_families(32), *families.sensor_families(wave=128))}
    return request.param, known[request.param].make(tmp_path_factory.mktemp("family"))


def graphs(files: dict[str, Any]) -> dict[str, Any]:
    return {variant: onnx.load(file) for variant, file in files.items() if isinstance(file, Path)}


def test_every_variant_is_made_that_the_family_can_have(made: Any) -> None:
    name, files = made
    missing = {variant for variant, file in files.items() if isinstance(file, str)}
    assert missing == NOT_MADE.get(name, set())


def test_every_release_lists_every_operator(made: Any) -> None:
    name, files = made
    for variant, model in graphs(files).items():
        assert [str(one) for one in operators.complaints(model)] == [], variant
        if name in SENSORS:  # a transform written out as a matrix would be one; of pictures it is weights
            assert operators.large_constants(model) == {}, variant


def test_the_parser_takes_it_and_the_builder_builds(rtx: Any, made: Any) -> None:
    for variant, file in made[1].items():
        if isinstance(file, Path):
            engine, complaints = parse(rtx, file)
            assert complaints == [], variant
            assert engine is not None, variant


def test_int8_is_symmetric_by_channel_with_float_biases(made: Any) -> None:
    """What NVIDIA's parsers take and nothing else; see `edge_sft.export.quantize`."""
    from onnx import numpy_helper

    model = graphs(made[1]).get("int8-trt")
    if model is None:
        return
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        assert stored[node.input[2]].dtype == "int8"
        assert not stored[node.input[2]].any()
    for node in model.graph.node:  # strongly typed, the builder refuses an INT8 scalar: what is added stays float
        if node.op_type in ("Add", "Mul"):
            brought = [makers[name] for name in node.input if name in makers]
            assert not [m for m in brought if m.op_type == "DequantizeLinear" and m.input[0] in stored]
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    quantized = [node for node in layers if _weight(node, makers) is not None]
    assert quantized
    for node in quantized:
        weight, scales = (stored[name] for name in _weight(node, makers).input[:2])
        assert weight.dtype == "int8"
        assert scales.size == max(weight.shape[0 if node.op_type == "Conv" else -1], 1) or scales.size in weight.shape
        assert all(stored[name].dtype == "float32" for name in node.input[2:3] if name)


def _weight(node: Any, makers: dict[str, Any]) -> Any:
    """Return the DequantizeLinear that brings a layer its weight; None where the layer is float."""
    maker = makers.get(node.input[1])
    return maker if maker is not None and maker.op_type == "DequantizeLinear" else None

"""Graphs in torch against ONNX Runtime: the same numbers, in float and with Q/DQ nodes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_sft.export import quantize, ranges
from edge_sft.export.onnx_from_checkpoint import export_fp32
from edge_sft.export.quantize import Int8Variant
from edge_sft.progress import Silent
from edge_sft.task import image_classification

from .test_nvidia_families import families

onnx = pytest.importorskip("onnx", reason="onnx is not installed: torch's reading of graphs is not proved")
pytest.importorskip("torch", reason="torch is not installed: its reading of graphs is not proved")
__all__ = ["families"]

SIZE = 64
PICTURES = ("efficientnet_lite0", "resnet18", "mobilenet_v3_large")
SENSORS = ("remaining life mlp", "remaining life tcn by operating condition", "faults: all views")


@pytest.fixture(scope="module", params=[*PICTURES, *SENSORS])
def prepared(
    request: pytest.FixtureRequest, families: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Any]:
    """A family's name and its whole float graph."""
    out = tmp_path_factory.mktemp("graph")
    if request.param in SENSORS:
        known = {family.name: family for family in families.sensor_families(wave=128)}
        return request.param, quantize.prepare(known[request.param].make(out)["fp32"])
    if request.param != "efficientnet_lite0":
        pytest.importorskip("torchvision", reason=f"torchvision is not installed: {request.param} is not proved")
    module = families._Probabilities(families.classifier(request.param).eval())
    task = image_classification(families.LABELS, ("good",), SIZE, SIZE)
    return request.param, quantize.prepare(export_fp32(module, task, out))


def feeds(model: Any, count: int = 3) -> dict[str, Any]:
    random = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for value in model.graph.input:
        shape = [count, *(axis.dim_value for axis in value.type.tensor_type.shape.dim[1:])]
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
            found[value.name] = random.integers(0, 256, shape).astype(np.uint8)
        else:
            noise = random.standard_normal(shape).astype(np.float32)
            found[value.name] = np.ones(shape, np.float32) if value.name == "valid" else noise
    return found


def by_both(model: Any, given: dict[str, Any], wanted: list[str]) -> list[tuple[Any, Any]]:
    """Each tensor as ONNX Runtime computes it, without rearranging anything, and as torch does."""
    import onnxruntime
    import torch

    from edge_sft.export.onnx_torch import TorchGraph

    widened = onnx.ModelProto()
    widened.CopyFrom(model)
    del widened.graph.value_info[:]  # of before the picture's bytes became codes
    known = {value.name for value in widened.graph.output}
    widened.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(widened.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        said = TorchGraph(model).run({name: torch.from_numpy(array) for name, array in given.items()}, wanted)
    return [(real, said[name].numpy()) for name, real in zip(wanted, session.run(wanted, given), strict=True)]


def test_a_float_graph_says_the_same(prepared: tuple[str, Any]) -> None:
    from edge_sft.export import onnx_torch

    model = prepared[1]
    assert onnx_torch.unknown(model) == []
    layers = [node.output[0] for node in model.graph.node if node.op_type in onnx_torch.LAYERS]
    told = [value.name for value in model.graph.output]  # untrained, a model of remaining life says the same always
    for real, said in by_both(model, feeds(model), sorted({*told, *layers})):
        np.testing.assert_allclose(said, real, atol=1e-5 * max(1.0, float(np.abs(real).max())), rtol=0)


@pytest.mark.parametrize("variant", ["int8-trt", "int8-cpu"])
@pytest.mark.parametrize("prepared", PICTURES, indirect=True)
def test_a_rounded_graph_rounds_alike(prepared: tuple[str, Any], variant: Int8Variant) -> None:
    # sums in another order fall on the other side of a half now and then, and later layers carry it on
    model = prepared[1]
    given = feeds(model)
    seen = ranges.observe(model, [given["image"][:1], given["image"][1:2]], 2, Silent())
    made = quantize.quantized(model, ranges.ranges(seen, "minmax"), variant, ())
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer}
    firsts = [n for n in made.graph.node if n.op_type == "DequantizeLinear" and n.input[0] not in stored]
    for node in (firsts[0], firsts[len(firsts) // 2], firsts[-1]):
        (real, said), scale = by_both(made, given, [node.output[0]])[0], float(stored[node.input[1]])
        apart = np.abs(said - real) / scale
        assert float(np.percentile(apart, 99)) <= 5.0, node.name
        assert float(apart.mean()) < 1.0, node.name

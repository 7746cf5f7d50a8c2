"""What a bundle allows an FP16 engine: an honest one passes, wrong ones do not. FP16 arithmetic is emulated."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_sft.policy import Policy
from edge_sft.slots.golden import Arrays, Golden, compare

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "fp16.py"
LAYERS, WIDTH, SIZE = 8, 48, 16


@pytest.fixture(scope="module")
def rounding() -> Callable[..., Callable[[Arrays], Arrays]]:
    spec = spec_from_file_location("benchmarks_fp16", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.rounding  # type: ignore[no-any-return]


def network(dtype: Any, *, wrong_layer: float = 1.0) -> bytes:
    """Eight convolutions with ReLU, pooling, linear, softmax; images in, FP32 probabilities out."""
    rng = np.random.default_rng(0)
    kind = TensorProto.FLOAT16 if dtype == np.float16 else TensorProto.FLOAT
    constants: dict[str, Any] = {"c255": np.array(255, dtype)}
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=kind),
        helper.make_node("Div", ["cast", "c255"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["r0"], perm=[0, 3, 1, 2]),
    ]
    channels = 3
    for layer in range(LAYERS):
        weight = rng.normal(0, np.sqrt(2 / (9 * channels)), (WIDTH, channels, 3, 3))
        constants[f"w{layer}"] = (weight * (wrong_layer if layer == 5 else 1)).astype(dtype)
        nodes.append(helper.make_node("Conv", [f"r{layer}", f"w{layer}"], [f"y{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"y{layer}"], [f"r{layer + 1}"]))
        channels = WIDTH
    constants["head"] = rng.normal(0, 4, (WIDTH, 3)).astype(dtype)
    nodes += [
        helper.make_node("GlobalAveragePool", [f"r{LAYERS}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["half"], axis=1),
        helper.make_node("Cast", ["half"], ["probabilities"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )


def answers(content: bytes, images: Any) -> Any:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])


def test_an_honest_fp16_engine_passes_and_wrong_ones_do_not(
    rounding: Callable[..., Callable[[Arrays], Arrays]],
) -> None:
    from edge_sft.bundle.manifest import GateResult
    from edge_sft.export import golden

    rng = np.random.default_rng(1)
    images = (rng.integers(0, 256, (64, 4, 4, 3)).repeat(4, 1).repeat(4, 2)).astype(np.uint8)
    half = network(np.float16)
    onnx.checker.check_model(onnx.load_from_string(half))
    full, stated = answers(network(np.float32), images), answers(half, images)
    measured = GateResult.model_construct(variant="fp16", max_score_difference=float(np.abs(full - stated).max()))
    tolerance = golden.tolerance(measured)
    shown = Golden({"image": images[:8]}, {"fp16": {"probabilities": stated[:8]}})
    rule = Policy(labels=("a", "b", "c"), ok_labels=("a",))

    def difference(engine: Callable[[Arrays], Arrays]) -> float:
        return compare(shown, "fp16", engine, rule).difference

    honest = difference(rounding(half))
    assert 0 < honest <= tolerance / 2
    assert difference(rounding(network(np.float16, wrong_layer=1.2))) > tolerance

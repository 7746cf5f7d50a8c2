"""fp32 ONNX → INT8 ONNX in Q/DQ form, in the two flavours that two kinds of hardware want.

Measured (Lite0, 224², batch 1): NVIDIA's parsers take symmetric S8S8 with float biases and nothing else; ONNX
Runtime on x86 is slower with it than with fp32, and 1.5 to 2.5 times faster with U8S8.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from edge_sft.errors import BugError
from edge_sft.export import graph, picture_codes
from edge_sft.export.ranges import Ranges

if TYPE_CHECKING:
    import onnx

Int8Variant = Literal["int8-trt", "int8-cpu"]


@dataclass(frozen=True)
class Flavour:
    """Settings of one flavour.

    Attributes:
        unsigned: Activations U8 with a zero point, instead of S8 symmetric around 0.
        seven_bit_weights: Keep |weight| ≤ 63. x86 without VNNI adds pairs of U8×S8 products in 16 bits, which
            saturate with eight-bit weights: wrong numbers, silently, on exactly the old PCs that stand in plants.
        quantize_bias: Biases int32 instead of float; NVIDIA's parsers refuse them.
    """

    unsigned: bool
    seven_bit_weights: bool
    quantize_bias: bool


FLAVOURS: dict[Int8Variant, Flavour] = {
    "int8-trt": Flavour(unsigned=False, seven_bit_weights=False, quantize_bias=False),
    "int8-cpu": Flavour(unsigned=True, seven_bit_weights=True, quantize_bias=True),
}

_COMPUTE = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_OPS = [*_COMPUTE, "Add", "Mul", "Clip", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Reshape"]
_OPS += ["Flatten", "Pad"]


def prepare(fp32: Path) -> onnx.ModelProto:
    """Fold and infer shapes so that every tensor to quantize is known by name and type."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(fp32), str(prepared), skip_symbolic_shape=True)
        model = onnx.shape_inference.infer_shapes(onnx.load(prepared), strict_mode=True)
    for place, node in enumerate(model.graph.node):
        node.name = f"{place:04d}_{node.op_type}"  # nodes are excluded by name: make names present and unique
    return model


def layers(model: onnx.ModelProto) -> list[str]:
    """Return the names of the layers worth quantizing, in the order in which they compute.

    A final Gemm or MatMul is not among them: it makes the logits, costs next to nothing, and rounding it moves
    every verdict near the threshold. What comes before the first layer (normalisation) and after the last
    (temperature, softmax) stays float too.
    """
    places = _layer_places(model)[0]
    return [model.graph.node[place].name for place in places]


def after_layers(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes behind the last layer: temperature, softmax, intervals."""
    nodes = model.graph.node
    last = max((place for place, node in enumerate(nodes) if node.op_type in _COMPUTE), default=-1)
    return [node.name for node in nodes[last + 1 :]]


def quantized(
    model: onnx.ModelProto, ranges: Ranges, variant: Int8Variant, keep_float: Collection[str]
) -> onnx.ModelProto:
    """Return a graph in which all but some nodes are quantized.

    Args:
        model: As `prepare` returns it; not changed.
        ranges: (low, high) of each activation.
        variant: Flavour.
        keep_float: Names of nodes to leave in float, besides what lies outside the layers.

    Raises:
        BugError: The quantizer failed.
    """
    import onnx
    from onnxruntime import quantization as q
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    flavour = FLAVOURS[variant]
    if flavour.unsigned:
        ranges = picture_codes.with_whole_range(model, ranges)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        copy,
        True,  # per channel
        flavour.seven_bit_weights,
        q.QuantType.QInt8,
        q.QuantType.QUInt8 if flavour.unsigned else q.QuantType.QInt8,
        TensorsData(q.CalibrationMethod.MinMax, data),
        [],
        sorted({*outside(model), *keep_float, *(() if flavour.unsigned else with_constants(model))}),
        _OPS,
        {
            "ActivationSymmetric": not flavour.unsigned,
            "WeightSymmetric": True,
            "QuantizeBias": flavour.quantize_bias,
        },
    )
    try:
        quantizer.quantize_model()
    except Exception as error:
        raise BugError(
            f"quantization to {variant}", f"failed ({type(error).__name__}: {error})", "Please report this."
        ) from error
    result: onnx.ModelProto = quantizer.model.model
    if flavour.unsigned:
        picture_codes.shorten(result)
    return result


def save(model: onnx.ModelProto, variant: Int8Variant, out: Path) -> Path:
    """Write ``<out>/<variant>.onnx``, cleaned and checked."""
    return graph.save(model, out / f"{variant}.onnx")


def _layer_places(model: onnx.ModelProto) -> tuple[list[int], int]:
    """Return the places of the layers among the nodes, and the place from which on everything stays float."""
    nodes = model.graph.node
    places = [place for place, node in enumerate(nodes) if node.op_type in _COMPUTE]
    if not places:
        raise BugError("quantization", "the graph has no layer to quantize", "Please report this.")
    if len(places) > 1 and nodes[places[-1]].op_type in ("Gemm", "MatMul"):
        return places[:-1], places[-1]
    return places, places[-1] + 1


def with_constants(model: onnx.ModelProto) -> list[str]:
    """Return the sums and products with a constant: a guard against 0, a factor.

    NVIDIA's builder refuses a scalar in INT8 (TensorRT-RTX 1.7.1, strongly typed: "Quantized constant … is only
    allowed before DQ"), which the deviations of Lite0's features have.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    return [node.name for node in model.graph.node if node.op_type in ("Add", "Mul") and stored & set(node.input)]


def outside(model: onnx.ModelProto) -> list[str]:
    """Return the nodes that are never quantized."""
    places, end = _layer_places(model)
    return [node.name for place, node in enumerate(model.graph.node) if not places[0] <= place < end]

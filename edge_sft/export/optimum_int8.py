"""INT8 of Hugging Face networks by Optimum's quantizer: its presets for each target, our ranges, our gates.

A transformer is quantized where its arithmetic is, in convolutions and matrix products; LayerNorm, Softmax, GELU and
the residual sums between them keep their float range.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_sft.errors import BugError, UserError
from edge_sft.export.quantize import FLAVOURS, Int8Variant, outside
from edge_sft.export.ranges import Ranges

if TYPE_CHECKING:
    import onnx

OPERATORS = ["Conv", "Gemm", "MatMul"]


def quantized(
    model: onnx.ModelProto, ranges: Ranges, variant: Int8Variant, keep_float: Collection[str]
) -> onnx.ModelProto:
    """Return a graph whose convolutions and matrix products are quantized; arguments as of `quantize.quantized`.

    Raises:
        UserError: Optimum is not installed.
        BugError: The quantizer failed.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import TensorData, TensorsData

    quantizer, config = _quantizer(), _config(variant, sorted({*outside(model), *keep_float}))
    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "float" / "model.onnx"
        source.parent.mkdir()
        onnx.save(model, source)
        try:
            made = quantizer(source).quantize(
                save_dir=Path(scratch) / "int8",
                quantization_config=config,
                calibration_tensors_range=TensorsData(CalibrationMethod.MinMax, data),
                file_suffix=None,
            )
        except Exception as error:
            raise BugError(
                f"quantization to {variant} by Optimum",
                f"failed ({type(error).__name__}: {error})",
                "Please report it.",
            ) from error
        result = onnx.load(Path(made) / "model.onnx")
    if not FLAVOURS[variant].quantize_bias:
        _float_biases(result)
    return result


def _quantizer() -> Any:
    """Return a maker of Optimum's quantizer for one file."""
    try:
        from optimum.onnxruntime import ORTQuantizer
        from transformers import PretrainedConfig
    except ImportError as error:
        raise UserError(
            "quantizing a Hugging Face model", f"needs Optimum ({error})", "pip install 'edge-sft[hf]'"
        ) from error
    # a configuration of its own keeps it from looking for one beside the file
    return lambda path: ORTQuantizer(path, config=PretrainedConfig())


def _config(variant: Int8Variant, keep_float: list[str]) -> Any:
    """Return Optimum's preset for the target, with what was measured here to matter (see `quantize.FLAVOURS`)."""
    from optimum.onnxruntime.configuration import AutoQuantizationConfig as Presets

    if variant == "int8-trt":
        preset = Presets.tensorrt(per_channel=True, nodes_to_exclude=keep_float, operators_to_quantize=OPERATORS)
    else:
        preset = Presets.avx512_vnni(
            is_static=True, per_channel=True, nodes_to_exclude=keep_float, operators_to_quantize=OPERATORS
        )
    # weights are stored as int8: the pair that the TensorRT preset asks for would keep them in float, four times as big
    return replace(preset, reduce_range=FLAVOURS[variant].seven_bit_weights, qdq_add_pair_to_weight=False)


def _float_biases(model: onnx.ModelProto) -> None:
    """Turn int32 biases back into float, in place: Optimum always rounds them, NVIDIA's parsers refuse them."""
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    biases = [
        node
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in stored
        and stored[node.input[0]].data_type == TensorProto.INT32
    ]
    for node in biases:
        values, scale = (numpy_helper.to_array(stored[name]) for name in node.input[:2])
        graph.initializer.append(numpy_helper.from_array((values * scale).astype(np.float32), node.output[0]))
        graph.node.remove(node)
    needed = {name for node in graph.node for name in node.input}
    for tensor in [item for item in graph.initializer if item.name not in needed]:
        graph.initializer.remove(tensor)

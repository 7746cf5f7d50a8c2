"""fp32 ONNX → fp16 ONNX: typed half precision inside, the same uint8 input and float32 outputs outside."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from edge_sft.export import graph

if TYPE_CHECKING:
    import onnx

# Probabilities near 0 and 1 are what thresholds sit on; half precision has three digits there. Softmax over a
# handful of classes costs nothing, so it stays in float32.
_KEEP_FLOAT32 = ["Softmax"]


def export_fp16(fp32: Path, out: Path) -> Path:
    """Write ``<out>/fp16.onnx`` from an fp32 file. Raises BugError when the result is not what a bundle promises."""
    import onnx

    return save(onnx.load(fp32), (), out)


def save(model: onnx.ModelProto, keep_float: Collection[str], out: Path) -> Path:
    """Write ``<out>/fp16.onnx`` from a float graph, which is changed, with the nodes of these names left as they are.

    Raises BugError when the result is not what a bundle promises.
    """
    from onnxruntime.transformers import float16

    converted = float16.convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *_KEEP_FLOAT32],
        node_block_list=sorted(keep_float),
    )
    return graph.save(converted, out / "fp16.onnx")

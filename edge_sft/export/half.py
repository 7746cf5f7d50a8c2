"""fp32 ONNX → fp16 ONNX: typed half precision inside, the same uint8 input and float32 outputs outside."""

from __future__ import annotations

from pathlib import Path

from edge_sft.export import graph

# Probabilities near 0 and 1 are what thresholds sit on; half precision has three digits there. Softmax over a
# handful of classes costs nothing, so it stays in float32.
_KEEP_FLOAT32 = ["Softmax"]


def export_fp16(fp32: Path, out: Path) -> Path:
    """Write ``<out>/fp16.onnx`` from an fp32 file. Raises BugError when the result is not what a bundle promises."""
    import onnx
    from onnxruntime.transformers import float16

    converted = float16.convert_float_to_float16(
        onnx.load(fp32), keep_io_types=True, op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *_KEEP_FLOAT32]
    )
    return graph.save(converted, out / "fp16.onnx")

"""fp32 ONNX → fp16 ONNX: typed half precision inside, the same uint8 input and float32 outputs outside."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from edge_sft.export import graph, quantize

if TYPE_CHECKING:
    import onnx


def export_fp16(fp32: Path, out: Path) -> Path:
    """Write ``<out>/fp16.onnx`` from an fp32 file. Raises BugError when the result is not what a bundle promises."""
    import onnx

    return save(onnx.load(fp32), (), out)


def save(model: onnx.ModelProto, keep_float: Collection[str], out: Path) -> Path:
    """Write ``<out>/fp16.onnx`` from a float graph, which is changed, with the nodes of these names left as they are.

    What comes after the last layer (temperature, softmax, intervals) stays in float32 too: probabilities near 0 and 1
    are what thresholds sit on, half precision has three digits there, and over a handful of classes it costs nothing.

    Raises BugError when the result is not what a bundle promises.
    """
    from onnxruntime.transformers import float16

    converted = float16.convert_float_to_float16(
        model,
        keep_io_types=True,
        node_block_list=sorted({*keep_float, *quantize.after_layers(model)}),
    )
    _undo_round_trips(converted)
    return graph.save(converted, out / "fp16.onnx")


def _undo_round_trips(model: onnx.ModelProto) -> None:
    """Let nodes that stay float32 hand each other float32: the converter takes every tensor through half precision.

    Measured: 9,000 rpm ± 3 as an input loses the ± 3 that way, although every node that sees it is kept float32, and
    a probability of 0.99996 becomes 1.
    """
    import onnx

    graph_ = model.graph
    casts = {node.output[0]: node for node in graph_.node if node.op_type == "Cast"}
    to = {name: next(a.i for a in node.attribute if a.name == "to") for name, node in casts.items()}
    direct: dict[str, str] = {}
    for name, node in casts.items():
        source = node.input[0]
        if to[name] == onnx.TensorProto.FLOAT and to.get(source) == onnx.TensorProto.FLOAT16:
            direct[name] = casts[source].input[0]
    for node in graph_.node:
        for place, name in enumerate(node.input):
            node.input[place] = direct.get(name, name)
    _replace_outputs(graph_, direct)
    _prune(graph_)


def _replace_outputs(graph_: onnx.GraphProto, direct: dict[str, str]) -> None:
    """Where an output of the graph was such a round trip, let what it came from bear its name."""
    renamed = {direct[value.name]: value.name for value in graph_.output if value.name in direct}
    kept = [node for node in graph_.node if not set(node.output) & set(renamed.values())]
    del graph_.node[:]
    graph_.node.extend(kept)
    for node in graph_.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = renamed.get(name, name)


def _prune(graph_: onnx.GraphProto) -> None:
    """Drop nodes and weights that nothing needs any more."""
    while True:
        needed = {name for node in graph_.node for name in node.input} | {value.name for value in graph_.output}
        idle = [node for node in graph_.node if not set(node.output) & needed]
        if not idle:
            break
        for node in idle:
            graph_.node.remove(node)
    unused = [tensor for tensor in graph_.initializer if tensor.name not in needed]
    for tensor in unused:
        graph_.initializer.remove(tensor)

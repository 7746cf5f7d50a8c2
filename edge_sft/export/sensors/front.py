"""How much of a sensor graph must stay in float32: raw units, sums over time and spectra do not fit narrow numbers.

A graph begins with arithmetic in the machine's own units (9,046 rpm ± 3): half precision would round the ± 3 away and
overflow at 65,504. So what comes before the first layer, and all that large numbers and choices depend on, is never
narrowed; where that is not enough, the gate finds out and more of the front stays. Guards against a dead channel stay
float32 wherever they are.

A memory (``bank``) is another machine's on every machine, so no gate sees all of its numbers: what reads it stays
float32, save the search for neighbours, whose products are bounded by the clip. Neighbours that half precision
confuses are equally near, and their distances are taken from float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edge_sft.export.ranges import Observed

if TYPE_CHECKING:
    import onnx

_COMPUTE = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# What may be INT8 between layers; everything else (masks, statistics, averages over members) stays float.
_ACTIVATIONS = ("Relu", "Clip", "MaxPool", "AveragePool")
# An operating condition, a place on an axis: rounded numbers choose another one, or one that is not there.
_CHOOSING = ("ArgMin", "ArgMax", "Floor", "Ceil", "Round")
_SMALLEST = 6.2e-5  # below it half precision loses digits, and some hardware makes it 0
_SEARCH = "TopK"
_MEMORY_AXES = 2  # a window has three axes, a mean one
_LARGEST = 2048.0  # half precision counts whole numbers up to here, and its overflow is 32 times away
# In the search: rows without an example lie 150 away (`edge_sft.slots.memories`), and how far exactly is no matter.
_LARGEST_DISTANCE = 32768.0
_ATTEMPTS = 6


def fronts(model: onnx.ModelProto, seen: dict[str, Observed]) -> Iterator[frozenset[str]]:
    """Yield ever larger sets of nodes to keep in float32; each ends where a layer begins, or leaves only the search.

    Args:
        model: A float graph whose nodes have unique names, in an order in which they can be computed.
        seen: What was seen of its tensors.
    """
    nodes = model.graph.node
    search = searching(model)
    kept = _kept(model, seen, search) | (after_memory(model) - search) | guarded(model)
    if not layer_names(model) and search - kept:
        yield frozenset(node.name for node in nodes) - (search - kept)
    layers = layer_names(model) - kept
    starts = [place for place, node in enumerate(nodes) if node.name in layers]
    for index in np.unique(np.linspace(0, len(starts) - 1, min(_ATTEMPTS, len(starts))).round().astype(int)):
        yield kept.union(node.name for node in nodes[: starts[index]])


def never_int8(model: onnx.ModelProto, front: frozenset[str]) -> frozenset[str]:
    """Return the nodes that INT8 leaves alone: the front, products with a machine's own memory, and non-layers."""
    layers = layer_names(model)
    nodes = model.graph.node
    return front.union(node.name for node in nodes if node.name not in layers and node.op_type not in _ACTIVATIONS)


def layer_names(model: onnx.ModelProto) -> frozenset[str]:
    """Return the nodes that multiply with weights of the model, not with what is local to a machine."""
    stored = {tensor.name for tensor in model.graph.initializer}
    nodes = model.graph.node
    return frozenset(node.name for node in nodes if node.op_type in _COMPUTE and node.input[1] in stored)


def memories(model: onnx.ModelProto) -> frozenset[str]:
    """Return the inputs that hold a machine's memory."""
    inputs = model.graph.input
    return frozenset(value.name for value in inputs if len(value.type.tensor_type.shape.dim) == _MEMORY_AXES)


def searching(model: onnx.ModelProto) -> frozenset[str]:
    """Return the nodes that serve the search for neighbours and nothing else."""
    told = {value.name for value in model.graph.output}
    users: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, set()).add(node.name)
    found = {node.name for node in model.graph.node if node.op_type == _SEARCH}
    only: set[str] = set()
    for node in reversed(model.graph.node):  # users come behind what they use
        serves = [users.get(name, set()) for name in node.output]
        if any(serves) and not told & set(node.output) and all(names <= found | only for names in serves):
            only.add(node.name)
    return frozenset(only)


def guarded(model: onnx.ModelProto) -> frozenset[str]:
    """Return the nodes with a constant that is next to nothing, a guard of a logarithm or a division, and who use them.

    A dead channel comes to the guard: rounded to 0, it would make the answer infinite.
    """
    from onnx import numpy_helper

    tiny: set[str] = set()
    for tensor in model.graph.initializer:
        value = np.abs(numpy_helper.to_array(tensor)) if tensor.data_type == tensor.FLOAT else np.zeros(0)
        if value.size == 1 and 0 < float(value.max()) < _SMALLEST:
            tiny.add(tensor.name)
    guards = [node for node in model.graph.node if tiny & set(node.input)]
    made = {name for node in guards for name in node.output}
    return frozenset(node.name for node in model.graph.node if (tiny | made) & set(node.input))


def after_memory(model: onnx.ModelProto) -> frozenset[str]:
    """Return the nodes that depend on a machine's memory."""
    reached = set(memories(model))
    found: set[str] = set()
    for node in model.graph.node:
        if reached & set(node.input):
            found.add(node.name)
            reached.update(node.output)
    return frozenset(found)


def _kept(model: onnx.ModelProto, seen: dict[str, Observed], search: frozenset[str]) -> frozenset[str]:
    """Return the nodes that see large numbers or choose places by numbers, and all that those depend on."""
    large, distant = _large(model, seen, _LARGEST), _large(model, seen, _LARGEST_DISTANCE)
    producers = {name: node for node in model.graph.node for name in node.output}
    waiting = [
        node
        for node in model.graph.node
        if node.op_type in _CHOOSING
        or (node.op_type == "Cast" and _is_whole(node))
        or (distant if node.name in search or node.op_type == _SEARCH else large) & {*node.input, *node.output}
    ]
    kept: set[str] = set()
    while waiting:
        node = waiting.pop()
        if node.name not in kept:
            kept.add(node.name)
            waiting += [producers[name] for name in node.input if name in producers]
    return frozenset(kept)


def _is_whole(cast: onnx.NodeProto) -> bool:
    from onnx import TensorProto

    to = next(item.i for item in cast.attribute if item.name == "to")
    return to in (TensorProto.INT32, TensorProto.INT64)


def _large(model: onnx.ModelProto, seen: dict[str, Observed], limit: float) -> set[str]:
    """Return the tensors that hold raw units or numbers above it: the window itself, activations, weights."""
    from onnx import numpy_helper

    found = {model.graph.input[0].name}
    found.update(name for name, item in seen.items() if max(abs(item.low), abs(item.high)) > limit)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size and float(np.abs(values).max()) > limit:
            found.add(tensor.name)
    return found

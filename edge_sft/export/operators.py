"""Does NVIDIA's parser list every operator of a variant? Asked of its published tables, one for each release.

``trt_operators.json`` holds the facts of onnx-tensorrt's ``docs/operators.md`` (which operators, for which types),
made by ``benchmarks/operators.py table``; its restrictions are the rules of this file. A table is a promise on paper:
what the parser and builder really do is tried with TensorRT-RTX in the tests and in ``benchmarks/nvidia_builds.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_sft.bundle.manifest import GateResult
from edge_sft.profile import VariantName

if TYPE_CHECKING:
    import onnx

TABLE = Path(__file__).with_name("trt_operators.json")
FOR_NVIDIA: tuple[VariantName, ...] = ("fp32", "fp16", "int8-trt")
LARGEST_CONSTANT_BYTES = 2_000_000
_MOST_NEIGHBOURS = 3840  # K of TopK lies below
_POOLED_RANKS = (4, 5)

# The table's types are those of the data an operator works on: its first input, or what is named here.
_DATA_INPUT = {"Where": 1, "OneHot": 2}
_BY_OUTPUT = ("Constant", "ConstantOfShape", "EyeLike", "Cast")
_TYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16", "FLOAT8E4M3FN": "FP8"}  # others have ONNX's name


@dataclass(frozen=True)
class Complaint:
    """What a parser does not take, and the releases whose tables say so."""

    what: str
    releases: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.what} (TensorRT {', '.join(self.releases)})"


@cache
def tables() -> dict[str, Any]:
    """Return the generated file: ``source``, ``licence``, ``releases`` and types by operator and release."""
    content: dict[str, Any] = json.loads(TABLE.read_bytes())
    return content


def complaints(model: onnx.ModelProto) -> list[Complaint]:
    """Return what the tables do not list of a graph, each once; empty where every release takes all of it."""
    graph = _Graph(model)
    found: dict[str, list[str]] = {}
    for release in tables()["releases"]:
        for node in model.graph.node:
            for what in _of_node(node, graph, release):
                if release not in found.setdefault(what, []):
                    found[what].append(release)
    return [Complaint(what, tuple(releases)) for what, releases in found.items()]


def used(model: onnx.ModelProto) -> set[tuple[str, str]]:
    """Return (operator, type of its data) of every node."""
    graph = _Graph(model)
    return {(node.op_type, kind) for node in model.graph.node for kind in graph.data_types(node)}


def large_constants(model: onnx.ModelProto, limit_bytes: int = LARGEST_CONSTANT_BYTES) -> dict[str, int]:
    """Return the constants above a size, in bytes by name."""
    from onnx import numpy_helper

    sizes = {tensor.name: numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer}
    return {name: size for name, size in sizes.items() if size > limit_bytes}


def noted(gate: GateResult, file: Path) -> GateResult:
    """Say in a gate's note what the tables do not list of a variant; of INT8 for NVIDIA it is the end.

    ``int8-trt`` exists for those parsers alone, so what no release lists is removed and the gate fails; the others
    also run elsewhere (ONNX Runtime, CUDA), so they only say it.
    """
    import onnx

    if not gate.passed or gate.variant not in FOR_NVIDIA:
        return gate
    found = complaints(onnx.load(file))
    if not found:
        return gate
    said = "not among the operators that NVIDIA's parser lists: " + "; ".join(str(one) for one in found)
    nowhere = any(len(one.releases) == len(tables()["releases"]) for one in found)
    passed = not (gate.variant == "int8-trt" and nowhere)
    if not passed:
        file.unlink()
    return gate.model_copy(update={"passed": passed, "note": "; ".join(filter(None, [said, gate.note]))})


class _Graph:
    """Types, ranks and constants by tensor name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx
        from onnx import numpy_helper

        whole = onnx.shape_inference.infer_shapes(model).graph
        values = [*whole.input, *whole.output, *whole.value_info]
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        self._kinds.update({value.name: value.type.tensor_type.elem_type for value in values})
        self.ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
        self._name = onnx.TensorProto.DataType.Name

    def kind(self, tensor: str) -> str:
        """Return a tensor's type in the tables' words; empty where it cannot be inferred."""
        if not self._kinds.get(tensor):
            return ""
        name = str(self._name(self._kinds[tensor]))
        return _TYPES.get(name, name)

    def data_types(self, node: onnx.NodeProto) -> set[str]:
        """Return the types for which the table must list the operator."""
        place = _DATA_INPUT.get(node.op_type, 0)
        found = {self.kind(node.output[0])} if node.op_type in _BY_OUTPUT else set()
        if node.op_type not in _BY_OUTPUT or node.op_type == "Cast":
            found.add(self.kind(node.input[place]))
        return found - {""}

    def is_constant(self, node: onnx.NodeProto, place: int) -> bool:
        """Tell whether an input is left out or stored in the file."""
        return len(node.input) <= place or not node.input[place] or node.input[place] in self.constants


def _of_node(node: onnx.NodeProto, graph: _Graph, release: str) -> Iterator[str]:
    listed = tables()["operators"].get(node.op_type, {}).get(release)
    if listed is None:
        yield node.op_type
        return
    for kind in sorted(graph.data_types(node) - set(listed.split())):
        yield f"{node.op_type} of {kind}"
    if node.op_type != "Cast" and any(name and graph.kind(name) == "UINT8" for name in node.input):
        yield f"{node.op_type} fed with UINT8"
    rule = _RULES.get("Reduce" if node.op_type.startswith("Reduce") else node.op_type)
    if rule is not None and not rule(node, graph):
        yield f"{node.op_type} in a form it restricts"


def _integer(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((item.i for item in node.attribute if item.name == name), default)


def _constant(place: int) -> Callable[[onnx.NodeProto, _Graph], bool]:
    return lambda node, graph: graph.is_constant(node, place)


def _pool(node: onnx.NodeProto, graph: _Graph) -> bool:
    """Two or three axes, no dilation, no indices."""
    dilations = next((list(item.ints) for item in node.attribute if item.name == "dilations"), [])
    return graph.ranks.get(node.input[0]) in _POOLED_RANKS and set(dilations) <= {1} and len(node.output) == 1


def _top(node: onnx.NodeProto, graph: _Graph) -> bool:
    many = graph.constants.get(node.input[1])
    return _integer(node, "sorted", 1) == 1 and many is not None and int(many.reshape(-1)[0]) < _MOST_NEIGHBOURS


def _zero_point(node: onnx.NodeProto, graph: _Graph) -> bool:
    zero = 2
    given = len(node.input) > zero and bool(node.input[zero])
    return not given or (node.input[zero] in graph.constants and not graph.constants[node.input[zero]].any())


def _resize(node: onnx.NodeProto, graph: _Graph) -> bool:
    words = {item.name: item.s.decode() for item in node.attribute if item.s}
    places = {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
    taken = words.get("mode", "nearest") in ("nearest", "linear") and not _integer(node, "antialias", 0)
    return taken and words.get("coordinate_transformation_mode", "half_pixel") in places


# The tables' restrictions on operators that a graph of ours may come to hold; the strictest of the releases.
_RULES: dict[str, Callable[[onnx.NodeProto, _Graph], bool]] = {
    "AveragePool": _pool,
    "MaxPool": _pool,
    "Reduce": _constant(1),
    "Squeeze": _constant(1),
    "Unsqueeze": _constant(1),
    "CumSum": _constant(1),
    "Slice": _constant(3),
    "Pad": _constant(3),
    "TopK": _top,
    "QuantizeLinear": _zero_point,
    "DequantizeLinear": _zero_point,
    "Resize": _resize,
    "ScatterND": lambda node, _: not any(item.s not in (b"", b"none") for item in node.attribute),
}

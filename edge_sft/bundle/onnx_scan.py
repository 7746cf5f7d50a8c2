"""Look for external data in an ONNX file without the onnx package: a walk over the protobuf wire format.

A graph may name files beside itself from which a runtime then reads weights: outside the signature, anywhere on
the disk. A bundle's graph must carry everything inside. Field numbers are those of onnx.proto (IR 3 to 13).
"""

from __future__ import annotations

from edge_sft.protobuf_wire import LEN, Malformed, walk

_DEEPEST = 32  # control flow nests graphs; nobody nests thirty

# message → {field number → message inside}; only what leads to a TensorProto
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION, _DATA_LOCATION_DEFAULT = 13, 14, 0
_GRAPH = 7


def find_external_data(content: bytes) -> str | None:
    """Tell why a graph must be refused, in one clause, or None when it carries all its data inside.

    Args:
        content: The whole ONNX file.
    """
    try:
        view = memoryview(content)
        if not any(field.number == _GRAPH and field.wire == LEN for field in walk(view)):
            return "is no ONNX graph"
        return "keeps tensors in files outside the bundle (external data)" if _external(view, "model", 0) else None
    except Malformed as error:
        return f"is no readable ONNX graph ({error})"


def _external(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _DEEPEST:
        raise Malformed("nested too deeply")
    inside = _FIELDS[kind]
    for number, wire, value, _ in walk(message):
        if kind == "tensor":
            if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != _DATA_LOCATION_DEFAULT):
                return True
        elif number in inside and wire == LEN and isinstance(value, memoryview):
            if _external(value, inside[number], depth + 1):
                return True
    return False

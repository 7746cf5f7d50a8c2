"""Look for external data in an ONNX file without the onnx package: a walk over the protobuf wire format.

A graph may name files beside itself from which a runtime then reads weights: outside the signature, anywhere on
the disk. A bundle's graph must carry everything inside. Field numbers are those of onnx.proto (IR 3 to 13).
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _LEN, _FIXED32 = 0, 1, 2, 5
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
        if not any(number == _GRAPH and wire == _LEN for number, wire, _ in _walk(view)):
            return "is no ONNX graph"
        return "keeps tensors in files outside the bundle (external data)" if _external(view, "model", 0) else None
    except _Malformed as error:
        return f"is no readable ONNX graph ({error})"


class _Malformed(Exception):
    """The bytes are not protobuf."""


def _external(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _DEEPEST:
        raise _Malformed("nested too deeply")
    inside = _FIELDS[kind]
    for number, wire, value in _walk(message):
        if kind == "tensor":
            if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != _DATA_LOCATION_DEFAULT):
                return True
        elif number in inside and wire == _LEN and isinstance(value, memoryview):
            if _external(value, inside[number], depth + 1):
                return True
    return False


def _walk(message: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """Yield (field number, wire type, value) of one message; values of length-delimited fields are views."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        value: memoryview | int = 0
        if wire == _VARINT:
            value, position = _varint(message, position)
        elif wire == _LEN:
            size, position = _varint(message, position)
            value, position = message[position : position + size], position + size
        elif wire in (_FIXED32, _FIXED64):
            position += 4 if wire == _FIXED32 else 8
        else:
            raise _Malformed(f"wire type {wire}")
        if position > len(message) or number == 0:
            raise _Malformed("cut off")
        yield number, wire, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
    raise _Malformed("cut off")

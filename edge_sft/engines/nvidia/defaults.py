"""Inputs with a default, for parsers that take them for constants.

An ONNX graph gives an input a default by an initializer of the same name. NVIDIA's parsers then see no input at all,
and what a machine has of its own could not be fed. So the initializer is taken out of the file's bytes before they are
parsed, and its values are fed where nobody else gives any. Done on the protobuf wire format: devices have no onnx
package, and all other bytes stay as they were signed. Field numbers are those of onnx.proto (IR 4 to 13).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_sft.engines.protocol import EngineNotBuilt
from edge_sft.protobuf_wire import LEN, Malformed, encoded, varint, walk

Values = dict[str, NDArray[np.float32]]

_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT = 5, 11
_INPUT_NAME = 1
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 4, 8, 9
_FLOAT = 1
_OTHER = "Export it again, or permit another variant in the profile."


def take_out(model: bytes, *, source: str) -> tuple[bytes, Values]:
    """Split a model into one whose inputs have no defaults, and the defaults.

    Args:
        model: The whole ONNX file.
        source: Its name, for messages.

    Returns:
        The bytes without the initializers of inputs (the same object where there are none), and their values.

    Raises:
        EngineNotBuilt: The bytes are no protobuf, or a default is no float32 tensor.
    """
    try:
        parts: list[memoryview | bytes] = []
        values: Values = {}
        for field in walk(memoryview(model)):
            if field.number == _MODEL_GRAPH and isinstance(field.content, memoryview):
                kept = _without_defaults(field.content, values, source)
                size = sum(len(part) for part in kept)
                parts += [encoded(_MODEL_GRAPH << 3 | LEN), encoded(size), *kept]
            else:
                parts.append(field.whole)
    except Malformed as error:
        raise EngineNotBuilt(source, f"is no readable ONNX graph ({error})", _OTHER) from error
    return (b"".join(parts), values) if values else (model, values)


def _without_defaults(graph: memoryview, values: Values, source: str) -> list[memoryview]:
    """Return the bytes of a graph's fields but the initializers of its inputs; add those to ``values``."""
    fields = list(walk(graph))
    inputs = {_name(field.content, _INPUT_NAME) for field in fields if field.number == _GRAPH_INPUT}
    kept = []
    for field in fields:
        name = _name(field.content, _TENSOR_NAME) if field.number == _GRAPH_INITIALIZER else None
        if name is not None and name in inputs and isinstance(field.content, memoryview):
            values[name] = _tensor(field.content, f"the default of '{name}' in {source}")
        else:
            kept.append(field.whole)
    return kept


def _name(message: memoryview | int, number: int) -> str | None:
    if isinstance(message, int):
        return None
    for field in walk(message):
        if field.number == number and isinstance(field.content, memoryview):
            return bytes(field.content).decode("utf-8", "replace")
    return None


def _tensor(message: memoryview, thing: str) -> NDArray[np.float32]:
    """Return a tensor's values, not to be written to. Raises EngineNotBuilt unless it is float32 and whole."""
    dims: list[int] = []
    kind: memoryview | int = 0
    content = b""
    for field in walk(message):
        if field.number == _TENSOR_DIMS:
            dims += [field.content] if isinstance(field.content, int) else _varints(field.content)
        elif field.number == _TENSOR_TYPE:
            kind = field.content
        elif field.number in (_TENSOR_RAW, _TENSOR_FLOATS):
            # floats outside raw_data are packed, or come one a field
            content += bytes(field.content) if isinstance(field.content, memoryview) else bytes(field.whole[-4:])
    if kind != _FLOAT or len(content) != 4 * math.prod(dims):
        raise EngineNotBuilt(thing, "is no float32 tensor that the file holds whole", _OTHER)
    return np.frombuffer(content, dtype="<f4").astype(np.float32, copy=False).reshape(dims)


def _varints(message: memoryview) -> list[int]:
    found, position = [], 0
    while position < len(message):
        value, position = varint(message, position)
        found.append(value)
    return found

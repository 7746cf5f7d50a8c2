"""The protobuf wire format, as far as reading an ONNX file asks for it: devices have no onnx package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, LEN, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field of a message; ``content`` is a view of a length-delimited one, ``whole`` of all its bytes."""

    number: int
    wire: int
    content: memoryview | int
    whole: memoryview


class Malformed(Exception):
    """The bytes are not protobuf."""


def walk(message: memoryview) -> Iterator[Field]:
    """Yield a message's fields in order; nothing is copied. Raises Malformed."""
    position = 0
    while position < len(message):
        start = position
        key, position = varint(message, position)
        number, wire = key >> 3, key & 7
        value: memoryview | int = 0
        if wire == VARINT:
            value, position = varint(message, position)
        elif wire == LEN:
            size, position = varint(message, position)
            value, position = message[position : position + size], position + size
        elif wire in (FIXED32, FIXED64):
            position += 4 if wire == FIXED32 else 8
        else:
            raise Malformed(f"wire type {wire}")
        if position > len(message) or number == 0:
            raise Malformed("cut off")
        yield Field(number, wire, value, message[start:position])


def varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return the number that begins at a position, and where it ends. Raises Malformed."""
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
    raise Malformed("cut off")


def encoded(value: int) -> bytes:
    """Return a number as a varint."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)

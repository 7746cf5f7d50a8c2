"""How updates travel: all tensors in one row of bytes, each as float32, bfloat16 or int8 with a scale a row.

What rounding loses is not lost: whoever encodes keeps the difference and adds it to what it sends next (error
feedback, Seide et al. 2014; Karimireddy et al. 2019). A network's request costs more than the bytes of a small
tensor, so that a message has one array and not one for each of a network's hundreds.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import DataError
from edge_sft.federated.learner import Arrays
from edge_sft.federated_section import Compression

_LEVELS: Final = 127.0
_LARGEST_LAYOUT: Final = 16 << 20  # bytes of JSON: a name and a shape each, for networks of 100,000 tensors
_F4: Final = np.dtype("<f4")

Layout = list[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Encoded:
    """An update on its way.

    Attributes:
        codes: All tensors by name, one after the other, uint8 [bytes].
        layout: Names and shapes, compressed JSON.
        encoding: How each is written.
    """

    codes: NDArray[np.uint8]
    layout: bytes
    encoding: Compression


def encode(delta: Arrays, encoding: Compression) -> Encoded:
    """Write an update down.

    Args:
        delta: float32 arrays by name, finite.
        encoding: ``none`` = float32; ``bf16``; ``int8`` = bytes with a float32 scale for each row (first axis) of
            matrices and kernels. Vectors are bfloat16 then: they are few, and a variance of batch normalisation that
            an absolute error pushes below zero ends the network.
    """
    names = sorted(delta)
    layout = json.dumps([[name, list(delta[name].shape)] for name in names], separators=(",", ":"))
    parts = [_written(np.ascontiguousarray(delta[name], _F4), encoding) for name in names]
    joined = np.frombuffer(b"".join(parts), dtype=np.uint8)
    return Encoded(joined, zlib.compress(layout.encode(), 9), encoding)


def decode(encoded: Encoded) -> Arrays:
    """Read an update back; it is what the receiver adds, bit for bit the same everywhere.

    Raises:
        DataError: Bytes are missing or too many, or the layout is none.
    """
    codes = np.ascontiguousarray(encoded.codes)
    if codes.dtype != np.uint8 or codes.ndim != 1:
        raise _damaged(f"its codes are {codes.dtype} with {codes.ndim} axes")
    raw, at = codes.tobytes(), 0
    out: Arrays = {}
    for name, shape in read_layout(encoded.layout):
        size = _bytes_of(shape, encoded.encoding)
        if at + size > len(raw):
            raise _damaged(f"it ends within {name}")
        out[name] = _read(raw[at : at + size], shape, encoded.encoding)
        at += size
    if at != len(raw):
        raise _damaged(f"{len(raw) - at} bytes are left over")
    return out


def from_row(row: NDArray[Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Cut a row of numbers [weights] into arrays by name, in the order in which `encode` lays them."""
    ends = np.cumsum([prod(shapes[name]) for name in sorted(shapes)])
    return {
        name: part.reshape(shapes[name]) for name, part in zip(sorted(shapes), np.split(row, ends[:-1]), strict=True)
    }


def round_trip(delta: Arrays, encoding: Compression) -> tuple[Encoded, Arrays, Arrays]:
    """Encode an update; return it, what the receiver will read, and what rounding lost (float32)."""
    encoded = encode(delta, encoding)
    arrives = decode(encoded)
    return encoded, arrives, {name: delta[name] - arrives[name] for name in delta}


def read_layout(layout: bytes) -> Layout:
    """Read names and shapes. Raises DataError: damaged, twice the same name, or absurdly long."""
    try:
        reader = zlib.decompressobj()
        text = reader.decompress(layout, _LARGEST_LAYOUT)
        rows: Any = json.loads(text)
        found = [(str(name), tuple(int(side) for side in shape)) for name, shape in rows]
    except (zlib.error, ValueError, TypeError) as error:
        raise _damaged(f"its layout cannot be read ({error})") from error
    if len({name for name, _ in found}) != len(found) or any(side < 0 for _, shape in found for side in shape):
        raise _damaged("its layout names a tensor twice, or one of negative size")
    return found


def _written(array: NDArray[np.float32], encoding: Compression) -> bytes:
    if encoding == "none":
        return array.tobytes()
    if encoding == "bf16" or not _in_rows(array.shape):
        return _bf16(array).tobytes()
    rows = array.reshape(array.shape[0], -1)
    scales = (np.abs(rows).max(axis=1) / np.float32(_LEVELS)).astype(_F4)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.where(scales[:, None] > 0, rows / scales[:, None], np.float32(0))
    codes = np.clip(np.rint(levels), -_LEVELS, _LEVELS).astype(np.int8)
    return bytes(scales.tobytes() + codes.tobytes())


def _read(raw: bytes, shape: tuple[int, ...], encoding: Compression) -> NDArray[np.float32]:
    if encoding == "none":
        return np.frombuffer(raw, dtype=_F4).reshape(shape).astype(np.float32)
    if encoding == "bf16" or not _in_rows(shape):
        wide = np.frombuffer(raw, dtype="<u2").astype(np.uint32) << np.uint32(16)
        narrow: NDArray[np.float32] = wide.view(np.float32).reshape(shape)
        return narrow
    scales = np.frombuffer(raw[: 4 * shape[0]], dtype=_F4)
    codes = np.frombuffer(raw[4 * shape[0] :], dtype=np.int8).reshape(shape[0], -1)
    values: NDArray[np.float32] = codes.astype(np.float32) * scales[:, None].astype(np.float32)
    return values.reshape(shape)


def _bf16(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round float32 to the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = array.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    halves: NDArray[np.uint16] = np.where(np.isnan(array), np.uint32(0x7FC0), rounded).astype("<u2")
    return halves


def _bytes_of(shape: tuple[int, ...], encoding: Compression) -> int:
    count = prod(shape)
    if encoding == "none":
        return 4 * count
    return count + 4 * shape[0] if encoding == "int8" and _in_rows(shape) else 2 * count


def _in_rows(shape: tuple[int, ...]) -> bool:
    """Whether a tensor has rows long enough that a scale each is worth its four bytes."""
    return len(shape) >= 2 and prod(shape) >= 4 * shape[0] > 0


def _damaged(fact: str) -> DataError:
    return DataError("an encoded update", fact, "It was damaged or made by another version of edge-sft.")

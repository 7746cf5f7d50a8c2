"""One file that holds a state: a JSON header and named arrays, checked by CRC-32, replaced atomically."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft import durable
from edge_sft.errors import DataError

_MAGIC = b"edge-sft state 1\n"
_SIZES = struct.Struct("<II")  # length of the header, CRC-32 of everything after this
_KINDS = frozenset("fiubU")  # of arrays; never objects: nothing read from a disk is executed

Arrays = Mapping[str, NDArray[Any]]


def write(path: Path, header: Mapping[str, Any], arrays: Arrays) -> int:
    """Replace the file; returns its size in bytes. Raises DeviceError when the disk refuses."""
    index: list[tuple[str, str, tuple[int, ...]]] = []
    parts: list[bytes] = []
    for name, array in arrays.items():
        index.append((name, array.dtype.str, array.shape))
        parts.append(array.tobytes())
    head = json.dumps({"header": header, "arrays": index}, separators=(",", ":")).encode()
    body = b"".join([head, *parts])
    durable.write_bytes(path, _MAGIC + _SIZES.pack(len(head), zlib.crc32(body)) + body)
    return len(body)


def read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """Return header and arrays; None where there is no file.

    Raises:
        DataError: It cannot be read, or is damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror or error})", "Check the disk.") from error
    try:
        return _parsed(content)
    except (ValueError, TypeError, KeyError, struct.error) as error:
        raise DataError(str(path), f"is damaged ({error})", "The state begins anew.") from error


def _parsed(content: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    start = len(_MAGIC) + _SIZES.size
    if content[: len(_MAGIC)] != _MAGIC:
        raise ValueError("not a state of this version")
    length, crc = _SIZES.unpack_from(content, len(_MAGIC))
    if zlib.crc32(memoryview(content)[start:]) != crc:
        raise ValueError("its checksum differs")
    head = json.loads(content[start : start + length])
    arrays: dict[str, NDArray[Any]] = {}
    at = start + length
    for name, kind, shape in head["arrays"]:
        dtype = np.dtype(kind)
        if dtype.kind not in _KINDS:
            raise ValueError(f"array {name} is of type {kind}")
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(content, dtype, count, at).reshape(shape)
        at += arrays[name].nbytes
    return head["header"], arrays

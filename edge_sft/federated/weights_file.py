"""Weights on disk: safetensors, replaced atomically; the same content gives the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_sft import durable
from edge_sft.errors import DataError

_FACTS: Final = "edge-sft"  # one entry: several are written in an order that changes from run to run


def write(path: Path, arrays: dict[str, NDArray[Any]], facts: dict[str, Any] | None = None) -> None:
    """Write arrays, and facts that JSON can hold, durably. Raises DeviceError when the disk refuses."""
    from safetensors.numpy import save

    ordered = {name: np.ascontiguousarray(arrays[name]).reshape(arrays[name].shape) for name in sorted(arrays)}
    durable.write_bytes(path, save(ordered, {_FACTS: json.dumps(facts or {}, sort_keys=True)}))


def read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read arrays and facts. Raises DataError: damaged or not there."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads((file.metadata() or {}).get(_FACTS, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "Remove it; what it held is made again.") from error

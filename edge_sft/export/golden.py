"""Golden samples: real validation pictures with each variant's outputs, for the device to repeat."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from edge_sft import durable
from edge_sft.bundle.manifest import GOLDEN, GateResult
from edge_sft.export import gating
from edge_sft.export.pictures import Pictures
from edge_sft.profile import VariantName
from edge_sft.task import Task

# Largest |difference| that other hardware, other kernels and another library version may cause in the same graph.
_FLOOR: dict[VariantName, float] = {"fp32": 1e-3, "fp16": 1e-2, "int8-trt": 5e-2, "int8-cpu": 5e-2}
_CEILING = 0.25  # beyond this a comparison says nothing


def tolerance(gate: GateResult) -> float:
    """Return the allowed difference from the golden outputs: a floor by kind, wider where rounding moved much.

    Other kernels round elsewhere, which moves a variant about as far from itself as rounding moved it from fp32.
    """
    if gate.variant == "fp32":
        return _FLOOR["fp32"]
    return min(_CEILING, max(_FLOOR[gate.variant], gate.max_score_difference))


def write(task: Task, pictures: Pictures, files: dict[VariantName, Path], out: Path) -> Path:
    """Write ``<out>/golden.npz``: ``in/<input>``, ``out/<variant>/<output>`` and ``label``.

    Args:
        task: Names inputs and outputs.
        pictures: The chosen ones, G of them.
        files: The variants whose outputs are expected, from ONNX Runtime on the CPU, one picture at a time.
        out: Folder to write to.
    """
    arrays: dict[str, Any] = {f"in/{task.inputs[0].name}": pictures.images, "label": pictures.labels}
    for variant, file in files.items():
        arrays[f"out/{variant}/{task.outputs[0].name}"] = gating.infer(file, task, pictures, batch=1)
    return save(arrays, out)


def save(arrays: dict[str, Any], out: Path) -> Path:
    """Write ``<out>/golden.npz`` durably; the same arrays give the same bytes."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    durable.write_bytes(out / GOLDEN, content.getvalue())
    return out / GOLDEN

"""Golden samples of a sensor model: real validation windows, and what each variant says about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.export import choosing, golden, running
from edge_sft.export.sensors.reference import SensorReference
from edge_sft.profile import VariantName

_SPARSE = 2  # of them are the windows with the least in them: beginnings, gaps, missing channels


def write(reference: SensorReference, files: dict[VariantName, Path], out: Path) -> Path:
    """Write ``<out>/golden.npz``.

    ``in/<input>`` [G, …] and ``out/<variant>/<output>`` [G, …] from ONNX Runtime on the CPU, one window at a time;
    ``local/<input>`` for what is the same for all windows (and the bundle's default of it); ``label`` or ``rul`` [G].

    Args:
        reference: Its windows are chosen from.
        files: The variants whose outputs are expected.
        out: Folder to write to.
    """
    shown = reference.shown.take(_chosen(reference))
    arrays: dict[str, Any] = {"in/window": shown.window, "in/valid": shown.valid}
    arrays |= {f"local/{name}": array for name, array in shown.local.items()}
    arrays |= {"rul": shown.rul} if reference.task.kind == "regression" else {"label": shown.label}
    for variant, file in files.items():
        answers = running.outputs(file, shown.blocks(1))
        arrays |= {f"out/{variant}/{name}": array for name, array in answers.items()}
    return golden.save(arrays, out)


def _chosen(reference: SensorReference) -> NDArray[np.int64]:
    filled = reference.shown.valid.mean(axis=(1, 2))
    sparse = np.argsort(filled, kind="stable")[:_SPARSE]
    return np.unique(np.concatenate([reference.choose(choosing.AT_MOST - _SPARSE), sparse]))

"""Golden samples of a model that says where: real validation tiles, and what each variant says about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_sft.export import choosing, golden, running
from edge_sft.export.dense.reference import FEATURES, DenseReference
from edge_sft.profile import VariantName


def write(reference: DenseReference, files: dict[VariantName, Path], out: Path) -> Path:
    """Write ``<out>/golden.npz``: ``in/image`` [G,…], ``out/<variant>/<output>`` [G,…] and whether each is ``good``.

    Local inputs are left out: each variant answers with its own defaults. So are ``features``, which decide nothing.

    Args:
        reference: Its tiles are chosen from.
        files: The variants whose outputs are expected, from ONNX Runtime on the CPU, one tile at a time.
        out: Folder to write to.
    """
    shown = reference.shown.take(reference.choose(choosing.AT_MOST))
    arrays: dict[str, Any] = {"in/image": shown.images, "good": shown.good[shown.picture]}
    for variant, file in files.items():
        answers = running.outputs(file, shown.blocks(1))
        arrays |= {f"out/{variant}/{name}": array for name, array in answers.items() if name != FEATURES}
    return golden.save(arrays, out)

"""Local inputs with a default: an initializer of the input's own name, which a caller may override."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_sft import durable
from edge_sft.export.running import Arrays

if TYPE_CHECKING:
    import onnx


def embed(file: Path, arrays: Arrays) -> None:
    """Give inputs of an ONNX file their defaults, in place and durably."""
    import onnx

    if arrays:
        durable.write_bytes(file, embedded(onnx.load(file), arrays).SerializeToString())


def embedded(model: onnx.ModelProto, arrays: Arrays) -> onnx.ModelProto:
    """Return the model with these defaults; those that were there before are replaced."""
    from onnx import numpy_helper

    graph = model.graph
    kept = [tensor for tensor in graph.initializer if tensor.name not in arrays]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()
    )
    return model

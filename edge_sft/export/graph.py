"""Checks and cleaning that every exported graph passes, whatever made it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_sft import durable
from edge_sft.errors import BugError, DataError

if TYPE_CHECKING:
    import onnx

OPSET = 20  # what the dynamo exporter writes natively; ONNX Runtime ≥ 1.17, TensorRT ≥ 10 and TensorRT-RTX read it
PRODUCER = "edge-sft"


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Clean, check and write a graph; the same graph gives the same bytes, with nothing of the maker's disk in it."""
    from onnxruntime.transformers.onnx_model import OnnxModel

    OnnxModel(model).topological_sort(is_deterministic=True)  # converters append their nodes at the end
    clean(model)
    check(model, source=path.name)
    durable.write_bytes(path, model.SerializeToString(deterministic=True))
    return path


def clean(model: onnx.ModelProto) -> None:
    """Strip stack traces, source paths, notes, unused domains and intermediate shapes; in place."""
    model.producer_name, model.producer_version = PRODUCER, ""
    model.domain, model.doc_string, model.graph.doc_string, model.graph.name = "", "", "", "main"
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used | {""}]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    graph = model.graph
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def check(model: onnx.ModelProto, *, source: str) -> None:
    """Hold a graph against what a bundle promises.

    Raises:
        BugError: Not valid ONNX, another opset, foreign operators, external data, or a batch axis that is not
            the only open one (inputs after the first may have none: what is local to a machine).
        DataError: Weights that are not finite.
    """
    import onnx
    from onnx import numpy_helper

    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise _broken(source, f"is not valid ONNX ({str(error).splitlines()[0]})") from error
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": OPSET}:
        raise _broken(source, f"uses operator sets {opsets} where only opset {OPSET} was asked for")
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise _broken(source, f"keeps '{tensor.name}' outside the file")
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise DataError(
                source, f"has weights that are not finite ('{tensor.name}')", "Train again with a lower learning rate."
            )
    local = {value.name for value in model.graph.input[1:]}
    for value in (*model.graph.input, *model.graph.output):
        fixed = [axis.HasField("dim_value") for axis in value.type.tensor_type.shape.dim]
        if not fixed or not all(fixed[1:]) or (fixed[0] and value.name not in local):
            raise _broken(source, f"has '{value.name}' with axes other than a free batch and fixed rest")


def _broken(source: str, fact: str) -> BugError:
    return BugError(source, fact, "Please report it, with the versions that edge-sft doctor prints.")

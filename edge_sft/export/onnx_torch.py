"""Run an exported ONNX graph in torch: the arithmetic of the file itself, with gradients to whatever is put into it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edge_sft.export.torch_operators import OPERATORS, Attributes

if TYPE_CHECKING:
    import onnx

Tensors = dict[str, Tensor]
LAYERS = ("Conv", "Gemm", "MatMul")


def unknown(model: onnx.ModelProto) -> list[str]:
    """Return the operators of a graph that cannot be run here, by name."""
    return sorted({node.op_type for node in model.graph.node if node.op_type not in OPERATORS and node.input})


class TorchGraph:
    """A graph's nodes in an order in which they can be computed, and its constants by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Read a graph; its nodes may stand in any order. Raises KeyError for an operator that `unknown` names."""
        from onnx import helper, numpy_helper
        from onnxruntime.transformers.onnx_model import OnnxModel

        ordered = type(model)()
        ordered.CopyFrom(model)
        OnnxModel(ordered).topological_sort(is_deterministic=True)
        self.constants: Tensors = {
            tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in ordered.graph.initializer
        }
        self._steps: list[tuple[str, list[str], list[str], Attributes]] = []
        for node in ordered.graph.node:
            attributes = {item.name: _plain(helper.get_attribute_value(item)) for item in node.attribute}
            if node.op_type == "Constant":
                self.constants[node.output[0]] = torch.from_numpy(numpy_helper.to_array(attributes["value"]).copy())
            else:
                OPERATORS[node.op_type]  # better now than in the middle of a run
                self._steps.append((node.op_type, list(node.input), list(node.output), attributes))

    def run(self, values: Mapping[str, Tensor], wanted: Collection[str]) -> Tensors:
        """Compute some tensors.

        Args:
            values: The graph's inputs, and tensors that take the place of its constants.
            wanted: Names of tensors to return.

        Raises:
            NotImplementedError: An operator is used in a way that is not understood.
        """
        known: dict[str, Tensor] = {**self.constants, **values}
        for kind, names, made, attributes in self._steps:
            given = [known[name] if name else None for name in names]
            result = OPERATORS[kind](given, attributes)
            results = result if isinstance(result, list) else [result]
            known.update(zip(made, results, strict=False))
        return {name: known[name] for name in wanted}


def _plain(value: Any) -> Any:
    """Return an attribute with text for bytes."""
    return value.decode() if isinstance(value, bytes) else value

"""What learns in quantization-aware fine-tuning: weights and biases of quantized layers, scales of activations.

Weights move in units of their own rounding step, biases in shares of the range that the layer's output has, scales
relatively: one rate fits layers whose channels differ a thousandfold, the very ones that rounding hurts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edge_sft.export.onnx_torch import LAYERS, Tensors, TorchGraph
from edge_sft.export.ranges import Ranges
from edge_sft.export.torch_operators import rounded

if TYPE_CHECKING:
    import onnx

Moved = dict[str, Tensors]


@dataclass(frozen=True)
class _Weight:
    """A weight: as it was, float; its scales, shaped to fit; the names of its codes and scales in the Q/DQ graph."""

    start: Tensor
    scale: Tensor
    codes_name: str
    scale_name: str
    scale_shape: torch.Size

    def float_value(self, moved: Tensor) -> Tensor:
        """Return what it is after it moved."""
        return self.start + moved * self.scale

    def values(self, name: str, moved: Tensor) -> Tensors:
        """Return float weight, codes and scales: the quantizer's, which follow the largest weight of a channel."""
        value = self.float_value(moved)
        axes = [axis for axis in range(value.ndim) if self.scale.shape[axis] == 1]
        largest, before = (w.detach().abs().amax(axes, keepdim=True) for w in (value, self.start))
        scale = torch.where(before > 0, self.scale * largest / before.clamp_min(1e-30), self.scale).clamp_min(1e-30)
        return {name: value, self.codes_name: rounded(value / scale), self.scale_name: scale.reshape(self.scale_shape)}


@dataclass(frozen=True)
class _Bias:
    """A bias: as it was; what it moves by; the names of its codes and scales where it has them."""

    start: Tensor
    unit: float
    codes_name: str = ""
    scale_name: str = ""

    def float_value(self, moved: Tensor) -> Tensor:
        """Return what it is after it moved."""
        return self.start + moved * self.unit

    def values(self, name: str, moved: Tensor) -> Tensors:
        """Return the float bias; its own rounding, in 32 bits, is too fine to matter."""
        value = self.float_value(moved)
        coded = {self.codes_name: value, self.scale_name: torch.ones_like(value)} if self.codes_name else {}
        return {name: value, **coded}


@dataclass
class Parameters:
    """What learns. ``moved`` are torch's parameters by kind and name; all start at 0, where nothing has moved."""

    weights: dict[str, _Weight] = field(default_factory=dict)
    biases: dict[str, _Bias] = field(default_factory=dict)
    scales: Tensors = field(default_factory=dict)
    moved: Moved = field(default_factory=dict)

    def values(self) -> Tensors:
        """Return what takes the place of the quantized graph's constants."""
        found: Tensors = {}
        for name, weight in self.weights.items():
            found |= weight.values(name, self.moved["weight"][name])
        for name, bias in self.biases.items():
            found |= bias.values(name, self.moved["bias"][name])
        return found | {name: scale * self.moved["scale"][name].exp() for name, scale in self.scales.items()}


def parameters_of(model: onnx.ModelProto, quantized: onnx.ModelProto, pupil: TorchGraph, ranges: Ranges) -> Parameters:
    """Find what learns.

    Args:
        model: The float graph.
        quantized: The same with Q/DQ nodes; its nodes have the names of the float one's.
        pupil: ``quantized`` in torch.
        ranges: By which it was quantized.
    """
    found = Parameters()
    stored = TorchGraph(model).constants
    makers = {node.output[0]: node for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
    inside = {node.name: node for node in quantized.graph.node if node.op_type in LAYERS}
    for node in model.graph.node:
        now = inside.get(node.name)
        maker = makers.get(now.input[1]) if now is not None else None
        if now is None or maker is None or node.input[1] not in stored:
            continue
        found.weights[node.input[1]] = _weight(stored[node.input[1]], maker, pupil)
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias in stored:
            coded = makers.get(now.input[2])
            low, high = ranges.get(node.output[0], (-1.0, 1.0))
            names = (coded.input[0], coded.input[1]) if coded is not None else ("", "")
            found.biases[bias] = _Bias(stored[bias], max(high - low, 1e-6) / 255, *names)
    used = [node.input[1] for node in quantized.graph.node if node.op_type == "QuantizeLinear"]
    found.scales = {name: pupil.constants[name] for name in used if _activation(name) in ranges}
    _start(found)
    return found


def _start(found: Parameters) -> None:
    shapes = {
        "weight": {name: weight.start for name, weight in found.weights.items()},
        "bias": {name: bias.start for name, bias in found.biases.items()},
        "scale": found.scales,
    }
    for kind, tensors in shapes.items():
        found.moved[kind] = {name: torch.zeros_like(tensor, requires_grad=True) for name, tensor in tensors.items()}


def _weight(start: Tensor, maker: onnx.NodeProto, pupil: TorchGraph) -> _Weight:
    scale = pupil.constants[maker.input[1]]
    shape = [1] * start.ndim
    if scale.numel() > 1:
        axis = next((item.i for item in maker.attribute if item.name == "axis"), 1)
        shape[axis] = -1
    return _Weight(start, scale.reshape(shape), maker.input[0], maker.input[1], scale.shape)


def _activation(scale: str) -> str:
    return scale.removesuffix("_scale")


def with_weights(model: onnx.ModelProto, parameters: Parameters) -> onnx.ModelProto:
    """Return a copy of the float graph with the weights and biases learnt."""
    from onnx import numpy_helper

    copy = type(model)()
    copy.CopyFrom(model)
    learnt = {name: item.float_value(parameters.moved["weight"][name]) for name, item in parameters.weights.items()}
    learnt |= {name: item.float_value(parameters.moved["bias"][name]) for name, item in parameters.biases.items()}
    for tensor in copy.graph.initializer:
        if tensor.name in learnt:
            tensor.CopyFrom(numpy_helper.from_array(learnt[tensor.name].detach().numpy(), tensor.name))
    return copy


def with_scales(ranges: Ranges, parameters: Parameters) -> Ranges:
    """Return the ranges with those stretched whose scale was: a zero point stays where it is."""
    learnt = dict(ranges)
    for name, moved in parameters.moved["scale"].items():
        low, high = ranges[_activation(name)]
        factor = float(moved.detach().exp())
        learnt[_activation(name)] = (low * factor, high * factor)
    return learnt

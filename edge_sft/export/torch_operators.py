"""ONNX operators as torch computes them: what `onnx_torch` needs to run an exported graph, with gradients.

Each takes its inputs (None where an optional one is missing) and its attributes and returns a tensor, or a list of
them. Meanings are those of opset 20; an attribute that is not understood raises NotImplementedError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Inputs = Sequence[Any]  # of tensors; None where an optional one is missing
Attributes = dict[str, Any]
Operator = Callable[[Inputs, Attributes], Any]

_TYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool}
_CONVOLUTIONS = {3: functional.conv1d, 4: functional.conv2d}
_MAXIMA = {3: functional.max_pool1d, 4: functional.max_pool2d}
_AVERAGES = {3: functional.avg_pool1d, 4: functional.avg_pool2d}
_NOTHING = 1e-30
_BYTE = {torch.uint8: (0, 255), torch.int8: (-128, 127)}


class _Round(torch.autograd.Function):
    """x / scale, rounded to the nearest code; gradients pass as if nothing were rounded, save where codes end.

    With the multiplication that follows, the scale's gradient is that of learned step sizes (Esser et al. 2020).
    """

    @staticmethod
    def forward(context: Any, values: Tensor, scale: Tensor, zero: float, low: int, high: int) -> Tensor:
        steps = values / scale
        codes = steps.round().add_(zero)
        inside = (codes >= low) & (codes <= high)
        context.save_for_backward(steps, scale, inside)
        return codes.clamp_(low, high)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        steps, scale, inside = context.saved_tensors
        passed = gradients[0] * inside / scale
        to_scale = -(passed * steps).sum() if context.needs_input_grad[1] else None
        return passed, None if to_scale is None else to_scale.reshape(scale.shape), None, None, None


def rounded(values: Tensor) -> Tensor:
    """Return whole numbers whose gradient is that of the numbers themselves."""
    return values + (values.round() - values).detach()


def _quantize(x: Inputs, attributes: Attributes) -> Tensor:
    values, scale, zero = x
    if scale.numel() != 1:
        raise NotImplementedError("an activation with a scale per channel")
    low, high = _BYTE[zero.dtype]
    codes: Tensor = _Round.apply(values, scale, float(zero), low, high)
    return codes


def _dequantize(x: Inputs, attributes: Attributes) -> Any:
    codes, scale, zero = x[0].float(), x[1], x[2] if len(x) > 2 else None
    if scale.numel() > 1:
        shape = [1] * codes.ndim
        shape[attributes.get("axis", 1)] = -1
        scale = scale.reshape(shape)
        zero = None if zero is None else zero.reshape(shape)
    return (codes if zero is None else codes - zero.float()) * scale


def _conv(x: Inputs, a: Attributes) -> Tensor:
    values, weight, bias = x[0], x[1], x[2] if len(x) > 2 else None
    values, pads = _padded(values, a, 0.0)
    strides, dilations = (a.get(name, [1] * (weight.ndim - 2)) for name in ("strides", "dilations"))
    made: Tensor = _CONVOLUTIONS[weight.ndim](values, weight, bias, strides, pads, dilations, a.get("group", 1))
    return made


def _max_pool(x: Inputs, a: Attributes) -> Tensor:
    if a.get("storage_order"):
        raise NotImplementedError("MaxPool by columns")
    values, pads = _padded(x[0], a, float("-inf"))
    ones = [1] * len(a["kernel_shape"])
    strides, dilations = a.get("strides", ones), a.get("dilations", ones)
    made: Tensor = _MAXIMA[x[0].ndim](values, a["kernel_shape"], strides, pads, dilations, bool(a.get("ceil_mode")))
    return made


def _average_pool(x: Inputs, a: Attributes) -> Tensor:
    values, pads = _padded(x[0], a, None)
    strides = a.get("strides", [1] * len(a["kernel_shape"]))
    counted = bool(a.get("count_include_pad"))
    made: Tensor = _AVERAGES[x[0].ndim](values, a["kernel_shape"], strides, pads, bool(a.get("ceil_mode")), counted)
    return made


def _padded(values: Tensor, a: Attributes, filling: float | None) -> tuple[Tensor, list[int]]:
    """Return values and what is left to pad: torch pads both ends alike, ONNX each as it is told."""
    if a.get("auto_pad", "NOTSET") != "NOTSET":
        raise NotImplementedError(f"auto_pad {a['auto_pad']}")
    axes = values.ndim - 2
    pads = a.get("pads", [0] * (2 * axes))
    if pads[:axes] == pads[axes:]:
        return values, pads[:axes]
    if filling is None:
        raise NotImplementedError("an average with other padding before than behind")
    ends = [end for axis in reversed(range(axes)) for end in (pads[axis], pads[axis + axes])]
    return functional.pad(values, ends, value=filling), [0] * axes


def _pad(x: Inputs, a: Attributes) -> Tensor:
    if a.get("mode", "constant") not in ("constant", "reflect", "edge"):
        raise NotImplementedError(f"Pad by {a['mode']}")
    ends, axes = x[1].tolist(), x[0].ndim
    if len(x) > 3 and x[3] is not None:
        raise NotImplementedError("Pad of chosen axes")
    by_axis = [end for axis in reversed(range(axes)) for end in (ends[axis], ends[axis + axes])]
    if a.get("mode", "constant") == "constant":
        return functional.pad(x[0], by_axis, value=float(x[2]) if len(x) > 2 and x[2] is not None else 0.0)
    while len(by_axis) > 2 and by_axis[-2:] == [0, 0]:
        by_axis = by_axis[:-2]
    return functional.pad(x[0], by_axis, mode="reflect" if a["mode"] == "reflect" else "replicate")


def _gemm(x: Inputs, a: Attributes) -> Tensor:
    left = x[0].T if a.get("transA") else x[0]
    right = x[1].T if a.get("transB") else x[1]
    product: Tensor = left @ right * a.get("alpha", 1.0)
    return product if len(x) < 3 or x[2] is None else product + x[2] * a.get("beta", 1.0)


def _slice(x: Inputs, a: Attributes) -> Any:
    values, starts, ends = x[0], x[1].tolist(), x[2].tolist()
    axes = x[3].tolist() if len(x) > 3 and x[3] is not None else list(range(len(starts)))
    steps = x[4].tolist() if len(x) > 4 and x[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = range(values.shape[axis])[slice(start, end if end > -(1 << 62) else None, step)]
        if step > 0:
            values = values[(slice(None),) * (axis % values.ndim) + (slice(places.start, places.stop, step),)]
        else:
            values = values.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=values.device))
    return values


def _split(x: Inputs, a: Attributes) -> list[Tensor]:
    axis = a.get("axis", 0)
    if len(x) > 1 and x[1] is not None:
        return list(torch.split(x[0], x[1].tolist(), axis))
    return list(torch.split(x[0], -(-x[0].shape[axis] // a["num_outputs"]), axis))


def _reshape(x: Inputs, a: Attributes) -> Tensor:
    wanted = x[1].tolist()
    if not a.get("allowzero"):
        wanted = [x[0].shape[place] if size == 0 else size for place, size in enumerate(wanted)]
    values: Tensor = x[0].reshape(wanted)
    return values


def _clip(x: Inputs, a: Attributes) -> Tensor:
    low, high = (x[place] if len(x) > place else None for place in (1, 2))
    return torch.clamp(x[0], None if low is None else low, None if high is None else high)


def _gather(x: Inputs, a: Attributes) -> Any:
    axis = a.get("axis", 0) % x[0].ndim
    places = torch.where(x[1] < 0, x[1] + x[0].shape[axis], x[1])
    taken = x[0].index_select(axis, places.reshape(-1))
    return taken.reshape((*x[0].shape[:axis], *places.shape, *x[0].shape[axis + 1 :]))


def _layer_norm(x: Inputs, a: Attributes) -> Tensor:
    axis = a.get("axis", -1) % x[0].ndim
    bias = x[2] if len(x) > 2 else None
    return functional.layer_norm(x[0], x[0].shape[axis:], x[1], bias, a.get("epsilon", 1e-5))


def _reduce(compute: Callable[..., Tensor]) -> Operator:
    def run(x: Inputs, a: Attributes) -> Tensor:
        axes = x[1].tolist() if len(x) > 1 and x[1] is not None else a.get("axes", [])
        if not axes and a.get("noop_with_empty_axes"):
            return x[0]  # type: ignore[no-any-return]
        return compute(x[0], tuple(axes) or tuple(range(x[0].ndim)), bool(a.get("keepdims", 1)))

    return run


def _squeeze(x: Inputs, a: Attributes) -> Tensor:
    axes = x[1].tolist() if len(x) > 1 else [place for place, size in enumerate(x[0].shape) if size == 1]
    values: Tensor = x[0].squeeze(tuple(axes))
    return values


def _unsqueeze(x: Inputs, a: Attributes) -> Tensor:
    values, axes = x[0], x[1].tolist()
    for axis in sorted(axis % (values.ndim + len(axes)) for axis in axes):
        values = values.unsqueeze(axis)
    return values  # type: ignore[no-any-return]


def _top_k(x: Inputs, a: Attributes) -> list[Tensor]:
    found = torch.topk(x[0], int(x[1]), a.get("axis", -1), bool(a.get("largest", 1)), bool(a.get("sorted", 1)))
    return [found.values, found.indices]


def _sqrt(x: Inputs, a: Attributes) -> Tensor:
    """Return roots; that of 0 (a channel that rounding made constant) has no gradient instead of an infinite one."""
    some = x[0] > _NOTHING
    return torch.where(some, torch.where(some, x[0], 1.0).sqrt(), 0.0)


def _divide(x: Inputs, a: Attributes) -> Tensor:
    return x[0] / x[1] if x[0].is_floating_point() else torch.div(x[0], x[1], rounding_mode="trunc")


def _choose(least: bool) -> Operator:
    def run(x: Inputs, a: Attributes) -> Tensor:
        if a.get("select_last_index"):
            raise NotImplementedError("the last of equal ones")
        found = torch.argmin if least else torch.argmax
        return found(x[0], a.get("axis", 0), bool(a.get("keepdims", 1)))

    return run


def _one(compute: Callable[..., Tensor]) -> Operator:
    return lambda x, a: compute(*x)


OPERATORS: dict[str, Operator] = {
    "Abs": _one(torch.abs), "Add": _one(torch.add), "And": _one(torch.logical_and), "ArgMax": _choose(False),
    "ArgMin": _choose(True), "AveragePool": _average_pool, "Cast": lambda x, a: x[0].to(_TYPES[a["to"]]),
    "Ceil": _one(torch.ceil), "Clip": _clip, "Concat": lambda x, a: torch.cat(list(x), a["axis"]), "Conv": _conv,
    "Cos": _one(torch.cos), "DequantizeLinear": _dequantize, "Div": _divide, "Equal": _one(torch.eq),
    "Erf": _one(torch.erf), "Exp": _one(torch.exp),
    "Expand": lambda x, a: x[0] * torch.ones(x[1].tolist(), dtype=x[0].dtype, device=x[0].device),
    "Flatten": lambda x, a: x[0].reshape(int(torch.tensor(x[0].shape[: a.get("axis", 1)]).prod()), -1),
    "Floor": _one(torch.floor), "Gather": _gather,
    "GatherElements": lambda x, a: torch.gather(x[0], a.get("axis", 0), x[1]),
    "Gelu": lambda x, a: functional.gelu(x[0], approximate=a.get("approximate", "none")), "Gemm": _gemm,
    "GlobalAveragePool": lambda x, a: x[0].mean(tuple(range(2, x[0].ndim)), keepdim=True),
    "Greater": _one(torch.gt), "GreaterOrEqual": _one(torch.ge),
    "HardSigmoid": lambda x, a: torch.clamp(x[0] * a.get("alpha", 0.2) + a.get("beta", 0.5), 0.0, 1.0),
    "HardSwish": _one(functional.hardswish), "Identity": lambda x, a: x[0], "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda x, a: functional.leaky_relu(x[0], a.get("alpha", 0.01)), "Less": _one(torch.lt),
    "LessOrEqual": _one(torch.le), "Log": _one(torch.log), "MatMul": _one(torch.matmul), "MaxPool": _max_pool,
    "Mul": _one(torch.mul), "Neg": _one(torch.neg), "Not": _one(torch.logical_not), "Or": _one(torch.logical_or),
    "Pad": _pad, "Pow": _one(torch.pow), "QuantizeLinear": _quantize, "Reciprocal": _one(torch.reciprocal),
    "ReduceMax": _reduce(torch.amax), "ReduceMean": _reduce(torch.mean), "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum), "Relu": _one(torch.relu), "Reshape": _reshape, "Round": _one(torch.round),
    "Shape": lambda x, a: torch.tensor(x[0].shape[a.get("start", 0) : a.get("end")], dtype=torch.int64),
    "Sigmoid": _one(torch.sigmoid), "Sin": _one(torch.sin), "Slice": _slice,
    "Softmax": lambda x, a: torch.softmax(x[0], a.get("axis", -1)), "Split": _split, "Sqrt": _sqrt,
    "Squeeze": _squeeze, "Sub": _one(torch.sub), "Tanh": _one(torch.tanh), "TopK": _top_k,
    "Transpose": lambda x, a: x[0].permute(a["perm"]), "Unsqueeze": _unsqueeze, "Where": _one(torch.where),
}  # fmt: skip

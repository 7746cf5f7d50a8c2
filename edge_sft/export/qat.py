"""Quantization-aware fine-tuning: let a network get used to its own rounding, where rounding alone costs too much.

The Q/DQ graph that the ordinary quantizer makes is run in torch. Weights and biases of its quantized layers and the
scales of its activations learn, by gradients that pass through the rounding, to say on training samples what the
float graph says there: no labels, no augmentation, nothing of the network's own code, so pictures, windows and
foreign networks go the same road. Then the ordinary quantizer rounds what was learnt and the ordinary gate judges it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edge_sft.export.onnx_torch import LAYERS, Tensors, TorchGraph, unknown
from edge_sft.export.qat_parameters import Parameters, parameters_of, with_scales, with_weights
from edge_sft.export.ranges import Ranges
from edge_sft.export.running import Arrays
from edge_sft.progress import Progress

if TYPE_CHECKING:
    import onnx

STEPS, _FEWEST = 240, 40  # of each boldness
BATCH = 16  # fewer where memory asks for it
_MEMORY_BYTES, _BYTES = (
    4e9,
    30,
)  # in all, and for each number that a sample's nodes write (measured: mobilenet_v3_large)
_OPERATIONS = 1.2e12  # multiplications and ten times the numbers written: some two to five minutes of two cores, each
_RATES = {"weight": 0.015, "bias": 0.02, "scale": 0.002}
# A well-behaved network wants small steps (mobilenet_v3_large got worse with the large ones), one whose channels differ
# much large ones: both are tried, and the loss on training samples says which.
_BOLDNESS = (1.0, 6.0)
_BETAS = (0.9, 0.99)
_SAME = 1e-3  # of an output's spread: farther apart, torch and ONNX Runtime do not read the graph alike
_WARM = 0.05


class NotPossibleError(Exception):
    """Why a graph cannot be fine-tuned, in words for a gate's note."""


@dataclass(frozen=True)
class Learnt:
    """The float graph with the weights learnt, and the ranges that belong to the scales learnt."""

    model: onnx.ModelProto
    ranges: Ranges


def tune(
    model: onnx.ModelProto, quantized: onnx.ModelProto, ranges: Ranges, samples: Arrays, progress: Progress, title: str
) -> Learnt:
    """Fine-tune a graph under its rounding; the same arguments give the same result.

    Args:
        model: The float graph; not changed.
        quantized: The same graph with Q/DQ nodes, as the quantizer makes it.
        ranges: (low, high) of each activation, by which it was quantized.
        samples: Training samples: the graph's inputs by name; those without a batch axis are the same for all.
        progress: Told about each step.
        title: What the steps are called there; the time they take is added.

    Raises:
        NotPossibleError: The graph cannot be run with gradients.
    """
    strange = sorted({*unknown(model), *unknown(quantized)})
    if strange:
        raise NotPossibleError(f"the operator {strange[0]} is not known to it")
    teacher, pupil = TorchGraph(model), TorchGraph(quantized)
    batches = _Batches(model, samples)
    try:
        answers = _asked(model, teacher, quantized, batches)
        fits = []
        for times in _BOLDNESS:
            parameters = parameters_of(model, quantized, pupil, ranges)
            fits.append((_fit(pupil, parameters, batches, answers, _steps(model), times, progress, title), parameters))
        parameters = min(fits, key=lambda fit: fit[0])[1]
    except (NotImplementedError, RuntimeError, KeyError, IndexError, ValueError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise NotPossibleError(f"its graph cannot be run with gradients ({why})") from error
    return Learnt(with_weights(model, parameters), with_scales(ranges, parameters))


class _Batches:
    """Samples as tensors, some at a time."""

    def __init__(self, model: onnx.ModelProto, samples: Arrays) -> None:
        written, _ = work(model)
        self.size = int(min(BATCH, max(2, _MEMORY_BYTES / (_BYTES * max(written, 1)))))
        self._local = {v.name for v in model.graph.input if v.type.tensor_type.shape.dim[0].HasField("dim_value")}
        self._samples = samples
        self.count = next(len(array) for name, array in samples.items() if name not in self._local)

    def take(self, places: Collection[int]) -> Tensors:
        chosen = np.fromiter(places, dtype=np.int64)
        return {
            name: torch.from_numpy(np.ascontiguousarray(array if name in self._local else array[chosen]))
            for name, array in self._samples.items()
        }


@dataclass(frozen=True)
class _Answers:
    """What the float graph says of every sample: outputs and the features before the last layer, by pupil's name."""

    wanted: Tensors
    spread: dict[str, float]


def _asked(model: onnx.ModelProto, teacher: TorchGraph, quantized: onnx.ModelProto, batches: _Batches) -> _Answers:
    names = _compared(model, quantized)
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    with torch.no_grad():
        for start in range(0, batches.count, batches.size):
            given = batches.take(range(start, min(start + batches.size, batches.count)))
            said = teacher.run(given, list(names.values()))
            if not start:
                _require_same(model, given, said)
            for name, of_teacher in names.items():
                parts[name].append(said[of_teacher])
    wanted = {name: torch.cat(values) for name, values in parts.items()}
    return _Answers(wanted, {name: max(float(value.std()), 1e-6) for name, value in wanted.items()})


def _compared(model: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, str]:
    """Return the tensors that shall be alike: name in the quantized graph → name in the float one."""
    from onnx import TensorProto

    outputs = [v.name for v in model.graph.output if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    last = next(node for node in reversed(model.graph.node) if node.op_type in LAYERS)
    features = next((node.input[0] for node in quantized.graph.node if node.name == last.name), outputs[0])
    return {features: last.input[0] if features not in outputs else features, **{name: name for name in outputs}}


def _require_same(model: onnx.ModelProto, given: Tensors, said: Tensors) -> None:
    """Hold torch's reading of the graph against ONNX Runtime's. Raises NotPossibleError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs() if value.name in said]
    for name, real in zip(names, session.run(names, {k: v.numpy() for k, v in given.items()}), strict=True):
        apart = float(np.abs(said[name].numpy() - real).max()) / max(float(real.std()), 1e-6)
        if not apart <= _SAME:
            raise NotPossibleError(f"torch computes its output {name} otherwise than ONNX Runtime ({apart:.1e})")


def _fit(
    pupil: TorchGraph,
    parameters: Parameters,
    batches: _Batches,
    answers: _Answers,
    steps: int,
    times: float,
    progress: Progress,
    title: str,
) -> float:
    """Learn; return the loss on training samples at the end, infinite where it got lost."""
    groups = [
        {"params": list(tensors.values()), "lr": 0.0, "rate": times * _RATES[kind]}
        for kind, tensors in parameters.moved.items()
        if tensors
    ]
    optimizer = torch.optim.Adam(groups, betas=_BETAS)
    begun = time.monotonic()
    losses: list[float] = []
    for step, places in enumerate(_order(batches, steps)):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * _rate(step, steps)
        said = pupil.run({**batches.take(places), **parameters.values()}, list(answers.wanted))
        loss = _loss(said, answers, places)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if _finite(optimizer):
            optimizer.step()
        if not step:
            minutes = max(1, math.ceil((time.monotonic() - begun) * steps / 60))
            progress.start(f"{title} (about {minutes} min)", steps)
        losses.append(float(loss.detach()))
        progress.advance(note=f"loss {losses[-1]:.4f}")
    last = float(np.mean(losses[-max(1, steps // 5) :]))
    return last if math.isfinite(last) else math.inf


def _finite(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a step can be taken: a root or logarithm beyond the layers may have met a 0."""
    gradients = [weight.grad for group in optimizer.param_groups for weight in group["params"]]
    return all(bool(torch.isfinite(gradient).all()) for gradient in gradients if gradient is not None)


def _loss(said: Tensors, answers: _Answers, places: list[int]) -> Tensor:
    """Divergence of probabilities, mean square of everything else in shares of its spread."""
    total = torch.zeros(())
    for name, whole in answers.wanted.items():
        wanted, got = whole[places], said[name]
        if name == "probabilities":
            total = total + functional.kl_div(got.clamp_min(1e-9).log(), wanted, reduction="batchmean")
        else:
            total = total + ((got - wanted) / answers.spread[name]).square().mean()
    return total


def _order(batches: _Batches, steps: int) -> list[list[int]]:
    """Return which samples each step takes: all of them in ever new orders."""
    random = np.random.default_rng(0)
    count = batches.count
    size = min(batches.size, count)
    rounds = -(-steps * size // count)
    queue = np.concatenate([random.permutation(count) for _ in range(rounds)])
    return [[int(place) for place in queue[step * size : (step + 1) * size]] for step in range(steps)]


def _rate(step: int, steps: int) -> float:
    warm = max(1, int(steps * _WARM))
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _steps(model: onnx.ModelProto) -> int:
    """Return how many steps the time allows, by the graph's size: the same on every machine."""
    written, multiplied = work(model)
    return int(min(STEPS, max(_FEWEST, _OPERATIONS / (3 * BATCH * max(10 * written + multiplied, 1.0)))))


def work(model: onnx.ModelProto) -> tuple[float, float]:
    """Return what one sample costs: the numbers that nodes write, and the multiplications of its layers."""
    sizes = {
        v.name: math.prod(d.dim_value or 1 for d in v.type.tensor_type.shape.dim)
        for v in (*model.graph.value_info, *model.graph.output)
    }
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    numbers = multiplications = 0.0
    for node in model.graph.node:
        written = sum(sizes.get(name, 0) for name in node.output)
        numbers += written
        if node.op_type in LAYERS and node.input[1] in weights:
            dims = weights[node.input[1]]
            multiplications += written * math.prod(dims) / max(dims[0] if node.op_type == "Conv" else dims[-1], 1)
    return numbers, multiplications

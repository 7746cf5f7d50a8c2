"""Checkpoint → fp32 ONNX: torch's dynamo exporter, its chatter kept away from the user unless it fails."""

from __future__ import annotations

import contextlib
import logging
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edge_sft.errors import BugError
from edge_sft.export import graph
from edge_sft.task import Task

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

_LARGEST_BATCH = 4096
LOG = "export.log"


def export_fp32(module: nn.Module, task: Task, out: Path, examples: tuple[Tensor, ...] | None = None) -> Path:
    """Write ``<out>/fp32.onnx``: one file, dynamic batch, names and shapes of the task.

    Args:
        module: In eval mode; takes the task's inputs in order, gives its outputs in order. Where the first is uint8,
            casts it before anything else.
        task: Says how inputs and outputs are called and shaped.
        out: Folder to write to.
        examples: Two samples to trace with, one tensor an input; zeros by default.

    Raises:
        BugError: The exporter failed (its log is kept beside, and named), or made something else than asked for.
        DataError: The checkpoint's weights are not finite.
    """
    given = examples or _zeros(task)
    model = _exported(module, task, given, out / LOG)
    if task.inputs[0].dtype == "uint8":
        _ask_the_cast_for_shapes(model)
        _check_starts_with_cast(model, out)
    _check_interface(model, task, out)
    return graph.save(model, out / "fp32.onnx")


def _zeros(task: Task) -> tuple[Tensor, ...]:
    import torch

    shapes = [tuple(2 if axis == -1 else axis for axis in spec.shape) for spec in task.inputs]
    return tuple(
        torch.zeros(shape, dtype=getattr(torch, spec.dtype)) for spec, shape in zip(task.inputs, shapes, strict=True)
    )


def _exported(module: nn.Module, task: Task, examples: tuple[Tensor, ...], log: Path) -> onnx.ModelProto:
    import torch

    batch = torch.export.Dim("N", min=1, max=_LARGEST_BATCH)
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("w", encoding="utf-8") as chatter, _captured(chatter), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                examples,
                dynamo=True,
                opset_version=graph.OPSET,
                input_names=[spec.name for spec in task.inputs],
                output_names=[output.name for output in task.outputs],
                dynamic_shapes=tuple({0: batch} if spec.shape[0] == -1 else None for spec in task.inputs),
                external_data=False,
                verbose=False,
            )
            if program is None:
                raise BugError("ONNX export", "gave nothing back", "Please report it.")
            model: onnx.ModelProto = program.model_proto
    except Exception as error:
        with log.open("a", encoding="utf-8") as chatter:
            traceback.print_exc(file=chatter)
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BugError("ONNX export", f"failed ({first})", f"Please report it and attach {log}.") from error
    log.unlink()
    return model


@contextlib.contextmanager
def _captured(chatter: TextIO) -> Iterator[None]:
    """Send prints, warnings and log records of torch and onnxscript to a file."""
    handler = logging.StreamHandler(chatter)
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(chatter), contextlib.redirect_stderr(chatter):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


def _ask_the_cast_for_shapes(model: onnx.ModelProto) -> None:
    """Let whoever asks the picture for its batch size (a transformer's class token) ask what it was cast to."""
    name = model.graph.input[0].name
    casts = [node.output[0] for node in model.graph.node if node.op_type == "Cast" and node.input[0] == name]
    for node in model.graph.node:
        if casts and node.op_type == "Shape" and node.input[0] == name:
            node.input[0] = casts[0]


def _check_starts_with_cast(model: onnx.ModelProto, out: Path) -> None:
    """NVIDIA's parsers let uint8 feed a Cast and nothing else (measured on TensorRT-RTX 1.7.1)."""
    name = model.graph.input[0].name
    consumers = {node.op_type for node in model.graph.node if name in node.input}
    if consumers != {"Cast"}:
        raise BugError(
            str(out / "fp32.onnx"), f"feeds its picture to {sorted(consumers)} instead of a Cast", "Please report it."
        )


def _check_interface(model: onnx.ModelProto, task: Task, out: Path) -> None:
    for found, wanted in ((model.graph.input, task.inputs), (model.graph.output, task.outputs)):
        shapes = {v.name: tuple(d.dim_value or -1 for d in v.type.tensor_type.shape.dim) for v in found}
        if shapes != {spec.name: spec.shape for spec in wanted}:
            raise BugError(str(out / "fp32.onnx"), f"has {shapes}, the task says otherwise", "Please report it.")

"""Sensor models by the task's kind; the module is imported on use. ``config`` is all that its shapes depend on."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn

from edge_sft.errors import BugError
from edge_sft.preprocess import Windowing
from edge_sft.task import Task

# each has build(task, windowing, config) -> nn.Module
BUILDERS = {
    "regression": "edge_sft.models.sensors.regressor",
    "classification": "edge_sft.models.sensors.classifier",
    "anomaly": "edge_sft.models.sensors.anomaly",
}


def build(task: Task, windowing: Windowing, config: dict[str, Any]) -> nn.Module:
    """Build an untrained network whose state dict has the shapes of the one that ``config`` was taken from.

    Args:
        task: What it predicts; ``forward`` takes its inputs in order and returns a tuple of its outputs in order.
        windowing: Channels and length of its windows.
        config: JSON values, as kept in a checkpoint; holds ``architecture``.

    Raises:
        BugError: There is no builder for the task's kind.
    """
    if task.modality != "window" or task.kind not in BUILDERS:
        raise BugError(f"{task.modality} {task.kind}", "has no sensor model", "Please report it.")
    module: nn.Module = import_module(BUILDERS[task.kind]).build(task, windowing, config)
    return module

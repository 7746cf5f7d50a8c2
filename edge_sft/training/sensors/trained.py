"""What every kind of sensor training hands to the writing of the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from torch import nn

from edge_sft.policy import AnyPolicy
from edge_sft.task import Task


@dataclass(frozen=True)
class Trained:
    """A finished sensor model.

    Attributes:
        module: In eval mode; ``forward`` takes the task's inputs in order and returns a tuple of its outputs in order.
        task: What it predicts.
        policy: The default policy.
        architecture: Its name, for people.
        config: JSON values from which `edge_sft.models.sensors.registry.build` rebuilds the module.
        metrics: One flat dict of numbers a split.
        scores: What reports, gates and later fine-tuning need, as arrays named ``<split>/<name>``. Regression:
            ``{run,end,rul,value,low,high}``; anomaly: ``{run,time,score,label,threshold,contributions}``;
            classification: ``{run,probabilities,label}``. Defaults of local graph inputs are
            ``default/<input name>``, a base's replay rows are ``replay/<name>``. Names of runs are strings.
        facts: What ``training`` in checkpoint.json shall say besides, JSON values.
    """

    module: nn.Module
    task: Task
    policy: AnyPolicy
    architecture: str
    config: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    scores: dict[str, NDArray[Any]]
    facts: dict[str, Any] = field(default_factory=dict)

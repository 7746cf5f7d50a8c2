"""edge-sft: from a factory's own labelled data to a small, proven, signed model that streams decisions.

Importing this package loads none of its parts; each name below is imported on use.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_sft.errors import EdgeSftError
    from edge_sft.policy import Policy
    from edge_sft.prediction import Decision, Envelope, Prediction, Sample
    from edge_sft.recipe import Recipe
    from edge_sft.slots.predictor import Predictor
    from edge_sft.task import Task

__version__ = "0.1.0"

# ONNX Runtime 1.32 sends usage data to its maker unless this is set before it is loaded. Nothing here phones home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "EdgeSftError": "edge_sft.errors",
    "Decision": "edge_sft.prediction",
    "Envelope": "edge_sft.prediction",
    "Policy": "edge_sft.policy",
    "Prediction": "edge_sft.prediction",
    "Predictor": "edge_sft.slots.predictor",
    "Recipe": "edge_sft.recipe",
    "Sample": "edge_sft.prediction",
    "Task": "edge_sft.task",
}

__all__ = [
    "Decision",
    "EdgeSftError",
    "Envelope",
    "Policy",
    "Prediction",
    "Predictor",
    "Recipe",
    "Sample",
    "Task",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'edge_sft' has no attribute '{name}'")

"""A finished checkpoint on one split, as training scored validation: what benchmarks ask of test, once."""

from __future__ import annotations

from pathlib import Path

import torch

from edge_sft import checkpoint as files
from edge_sft.data.dataset import Dataset, SplitName
from edge_sft.errors import BugError
from edge_sft.models import dense as networks
from edge_sft.policy import DetectionPolicy, SegmentationPolicy
from edge_sft.progress import Progress, Silent
from edge_sft.recipe import Recipe
from edge_sft.training import machine
from edge_sft.training.dense import samples as tiles
from edge_sft.training.dense.judging import ask
from edge_sft.training.dense.network import DenseNetwork
from edge_sft.training.dense.summary import Judged, judged, summary

_SILENT = Silent()


def look(directory: Path, recipe: Recipe, dataset: Dataset, split: SplitName, progress: Progress = _SILENT) -> Judged:
    """Run a checkpoint over a split of marked pictures.

    Raises:
        DataError: No intact checkpoint, or an unreadable picture.
    """
    meta = files.read_meta(directory)
    dense = networks.load(directory)
    if not isinstance(dense, networks.Dense):
        raise BugError(str(directory), "is no detector or segmenter", "Please report it.")
    network = DenseNetwork(dense, recipe.train, torch.device("cpu"))
    data = tiles.read(dataset, recipe, memory=machine.memory_bytes(), progress=progress)[split]
    return judged(meta.task, meta.geometry, data, ask(network, data, meta.task.kind))


def score(directory: Path, recipe: Recipe, dataset: Dataset, split: SplitName) -> dict[str, float]:
    """Return a split's numbers at the checkpoint's policy; see `summary`. Raises DataError as `look` does."""
    policy = files.read_meta(directory).policy
    if not isinstance(policy, (DetectionPolicy, SegmentationPolicy)):
        raise BugError(str(directory), "is no detector or segmenter", "Please report it.")
    return summary(look(directory, recipe, dataset, split), policy)

"""From a recipe and a dataset to a checkpoint: read, head on frozen features, fine-tune, choose, score, write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_sft import checkpoint as files
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.dataset import Dataset
from edge_sft.errors import BugError, DataError
from edge_sft.models.registry import build_with_provenance
from edge_sft.progress import Progress, Silent
from edge_sft.recipe import Recipe
from edge_sft.training import machine, schedule
from edge_sft.training.head import fit_head
from edge_sft.training.loop import FineTuning
from edge_sft.training.network import Network
from edge_sft.training.pictures import Pictures, decode
from edge_sft.training.scoring import Scorer
from edge_sft.training.selection import choose
from edge_sft.training.state import Facts, Store, training_key
from edge_sft.training.world import Alone, World
from edge_sft.training.writing import Job, facts_of, write_checkpoint

# a state is about 50 MB: every validation would wear a disk and cost time that redoing a few steps does not
SAVE_EVERY_S = 20.0
_SILENT, _ALONE = Silent(), Alone()


def fit(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    *,
    recipe_text: str,
    progress: Progress = _SILENT,
) -> CheckpointMeta:
    """Fine-tune as the recipe says and write the checkpoint directory.

    A finished checkpoint of the same recipe and data is returned as it is; an interrupted one is continued and
    ends with the same bytes as if it had never stopped.

    Args:
        recipe: What to train.
        dataset: The pictures, with their splits.
        out: The checkpoint directory; made when missing.
        recipe_text: The recipe as the user wrote it, kept beside the weights.
        progress: Told how far it is.

    Raises:
        DataError: Nothing to train on, a single class, an unreadable picture, a loss that is no number.
        UserError: Weights or a backbone that are not here.
        DeviceError: The disk is full, the GPU that was asked for is missing.
    """
    meta = run(recipe, dataset, out, recipe_text=recipe_text, progress=progress)
    if meta is None:
        raise BugError(str(out), "training ended without a checkpoint", "Please report it.")
    return meta


def run(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    *,
    recipe_text: str,
    progress: Progress = _SILENT,
    world: World = _ALONE,
    save_every_s: float = SAVE_EVERY_S,
) -> CheckpointMeta | None:
    """Do what `fit` does as one process of ``world``; processes other than the first return None."""
    refuse(recipe, dataset)
    job = Job(recipe, dataset, out, recipe_text, training_key(recipe, dataset))
    done = finished(out, job.key)
    if done is not None:
        return done
    device = machine.choose_device(recipe.train.device)
    machine.keep_freed_memory()
    with deterministic(device):
        return _train(job, device, progress, world, save_every_s)


def _train(
    job: Job, device: torch.device, progress: Progress, world: World, save_every_s: float
) -> CheckpointMeta | None:
    recipe, store = job.recipe, Store(job.out, job.key)
    facts, tensors = store.load(device) or (Facts(), {})
    facts.resumed += bool(tensors)
    meter = machine.Meter(facts.usage)
    torch.manual_seed(recipe.train.seed)
    classifier, provenance = build_with_provenance(recipe.model, len(recipe.task.labels), _size(recipe))
    network = Network(classifier, recipe.train, device)
    pictures = decode(
        job.dataset,
        recipe.task.labels,
        recipe.image.preprocess(),
        cache=store.folder / f"pictures.{world.rank}",
        memory=machine.memory_bytes(),
        progress=progress,
    )
    if not tensors:
        facts.strength = warm_up(recipe, network, pictures["train"], progress)
    tuning = FineTuning(
        network,
        recipe.train,
        recipe.augment,
        pictures["train"],
        pictures["val"],
        store=store,
        world=world,
        meter=meter,
        progress=progress,
        save_every_s=save_every_s,
    )
    outcome = tuning.run(facts, tensors)
    if world.rank != 0:
        return None
    choice = choose(network, outcome, pictures["val"])
    told = {**facts_of(job, choice, outcome, provenance, meter.usage()), **machine.facts(device)}
    told["processes"] = world.size
    meta = write_checkpoint(job, network, choice, pictures, told, provenance)
    store.clear()
    return meta


def _size(recipe: Recipe) -> tuple[int, int]:
    geometry = recipe.image.preprocess()
    return geometry.height, geometry.width


def refuse(recipe: Recipe, dataset: Dataset) -> None:
    """Raise DataError where there is nothing to learn from."""
    train = dataset.split("train")
    where = str(dataset.root)
    if not train:
        raise DataError(where, "has no pictures to train on", "Look at what `edge-sft check` says.")
    present = sorted({item.label for item in train})
    if len(present) < 2:
        raise DataError(
            where, f"has only '{present[0]}' pictures in its training split", "Two labels at least are needed."
        )
    missing = [label for label in recipe.task.labels if label not in present]
    if missing and not dataset.partial:
        raise DataError(
            where,
            f"has no training pictures of {', '.join(repr(label) for label in missing)}",
            "Add some, or take the label out of task.labels.",
        )


def finished(out: Path, key: str) -> CheckpointMeta | None:
    """Return the checkpoint of this very training where it is there already."""
    try:
        meta = files.read_meta(out)
    except DataError:
        return None
    return meta if meta.training.get("key") == key else None


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Let torch choose kernels that give the same bits every time."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # a few CUDA kernels have no deterministic twin: there it is best effort, on the CPU it is a promise
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def warm_up(
    recipe: Recipe, network: Network, train: Pictures, progress: Progress, known: NDArray[np.int64] | None = None
) -> float:
    """Put the logistic regression on frozen features into the head; returns its L2 strength.

    ``known`` are the labels [k] that it tells apart, the head's rows of others stay; None = all.
    """
    progress.start("Learning on frozen features", len(train))
    features = Scorer(network, train.images).features(progress)
    rows = np.arange(len(recipe.task.labels)) if known is None else known
    labels = torch.from_numpy(np.searchsorted(rows, train.labels))
    drawn = schedule.class_probabilities(train.labels, train.weights, recipe.train.class_balance)
    mass = np.bincount(train.labels, weights=train.weights.astype(np.float64), minlength=len(drawn))
    share: NDArray[np.float64] = drawn[train.labels] / mass[train.labels] * train.weights
    weights: Tensor = torch.from_numpy(share.astype(np.float32))
    head = fit_head(features, labels, weights, train.groups, len(rows))
    with torch.no_grad():
        network.classifier.head.weight[rows] = head.weight.to(network.classifier.head.weight.device)
        network.classifier.head.bias[rows] = head.bias.to(network.classifier.head.bias.device)
    return head.strength

"""From a recipe and a dataset with marked pictures to a checkpoint: read, train, choose, score, write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sft import checkpoint as files
from edge_sft import durable
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.dataset import Dataset, SplitName
from edge_sft.errors import BugError, DataError
from edge_sft.models import dense as networks
from edge_sft.models.registry import Provenance
from edge_sft.progress import Progress, Silent
from edge_sft.recipe import Recipe
from edge_sft.task import Task
from edge_sft.training import machine
from edge_sft.training.dense import samples as tiles
from edge_sft.training.dense.choosing import detection_policy, segmentation_policy
from edge_sft.training.dense.judging import ask, objects
from edge_sft.training.dense.loop import DenseTraining
from edge_sft.training.dense.losing import loss_of
from edge_sft.training.dense.network import DenseNetwork
from edge_sft.training.dense.samples import Samples, kinds
from edge_sft.training.dense.summary import DensePolicy, Judged, arrays, judged, summary
from edge_sft.training.fit import deterministic, finished
from edge_sft.training.loop import Outcome
from edge_sft.training.state import Facts, Store, training_key
from edge_sft.training.writing import Job

SAVE_EVERY_S = 20.0  # as in training pictures' classes: every validation would wear a disk
_SILENT = Silent()


def fit(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    *,
    recipe_text: str,
    progress: Progress = _SILENT,
    save_every_s: float = SAVE_EVERY_S,
) -> CheckpointMeta:
    """Train a detector or segmenter as the recipe says and write the checkpoint directory.

    A finished checkpoint of the same recipe and data is returned as it is; an interrupted one is continued and
    ends with the same bytes as if it had never stopped.

    Args:
        recipe: What to train; of kind detection or segmentation.
        dataset: The pictures with their truths and splits.
        out: The checkpoint directory; made when missing.
        recipe_text: The recipe as the user wrote it, kept beside the weights.
        progress: Told how far it is.
        save_every_s: Least time between two states on disk.

    Raises:
        DataError: Nothing marked to train on, an unreadable picture, a loss that is no number, too few good pictures
            for the false rejects asked for.
        UserError: Weights or a backbone that are not here, a backbone or size that cannot say where.
        DeviceError: The disk is full, the GPU that was asked for is missing.
    """
    if recipe.task.kind not in ("detection", "segmentation"):
        raise BugError(f"training for {recipe.task.kind}", "was asked of the wrong place", "Please report it.")
    job = Job(recipe, dataset, out, recipe_text, training_key(recipe, dataset))
    done = finished(out, job.key)
    if done is not None:
        return done
    device = machine.choose_device(recipe.train.device)
    machine.keep_freed_memory()
    with deterministic(device):
        return _train(job, device, progress, save_every_s)


def _train(job: Job, device: torch.device, progress: Progress, save_every_s: float) -> CheckpointMeta:
    recipe, store = job.recipe, Store(job.out, job.key)
    facts, tensors = store.load(device) or (Facts(), {})
    facts.resumed += bool(tensors)
    meter = machine.Meter(facts.usage)
    torch.manual_seed(recipe.train.seed)
    task = networks.task_of(recipe)
    dense, provenance = networks.build(recipe)
    data = tiles.read(job.dataset, recipe, memory=machine.memory_bytes(), progress=progress)
    refuse(job, data["train"])
    network = DenseNetwork(dense, recipe.train, device)
    network.measure(data["train"].images)
    training = DenseTraining(
        network,
        recipe,
        data["train"],
        data["val"],
        loss_of(recipe, dense, data["train"], device),
        store=store,
        meter=meter,
        progress=progress,
        save_every_s=save_every_s,
    )
    outcome = training.run(facts, tensors)
    network.put(outcome.best)
    told = {**_facts(job, outcome, provenance, meter), **machine.facts(device)}
    meta = _write(job, task, network, data, told, provenance)
    store.clear()
    return meta


def refuse(job: Job, train: Samples) -> None:
    """Raise DataError where there is nothing marked to learn from, or a label is never marked."""
    where, labels = str(job.dataset.root), job.recipe.task.labels
    present = set(kinds(train, len(labels)).tolist()) - {0}
    marked = {int(label) for drawn in train.drawn for label in drawn.labels} if present else set()
    if job.recipe.task.kind == "segmentation":
        marked = {int(value) - 1 for drawn in train.drawn if drawn.mask is not None for value in np.unique(drawn.mask)}
    if not marked - {-1}:
        raise DataError(
            where, "has no marked picture to train on", "Look at what `edge-sft check` says of its annotations."
        )
    missing = [label for index, label in enumerate(labels) if index not in marked]
    if missing and not job.dataset.partial:
        raise DataError(
            where,
            f"has nothing marked {', '.join(repr(label) for label in missing)} among its training pictures",
            "Mark some, or take the label out of task.labels.",
        )


def _facts(job: Job, outcome: Outcome, provenance: Provenance, meter: machine.Meter) -> dict[str, Any]:
    used = meter.usage()
    return {
        "key": job.key,
        "steps": outcome.facts.step,
        "best_step": outcome.facts.best_step,
        "history": outcome.facts.history,
        "resumed": outcome.facts.resumed,
        "weights": provenance.origin,
        "weights_sha256": provenance.sha256,
        "wall_s": round(used.wall_s, 1),
        "cpu_s": round(used.cpu_s, 1),
    }


def _write(
    job: Job,
    task: Task,
    network: DenseNetwork,
    data: dict[SplitName, Samples],
    told: dict[str, Any],
    provenance: Provenance,
) -> CheckpointMeta:
    recipe, geometry = job.recipe, job.recipe.image.preprocess()
    splits: tuple[SplitName, ...] = ("val", "test")
    seen = {split: judged(task, geometry, data[split], ask(network, data[split], task.kind)) for split in splits}
    policy = _policy(task, recipe, seen["val"])
    durable.sweep(job.out)
    sha256 = _write_weights(job.out, network)
    scores: dict[str, NDArray[Any]] = {}
    for split in splits:
        scores |= arrays(seen[split], policy, split)
    files.write_sensor_scores(job.out, scores)
    durable.write_text(job.out / files.RECIPE, job.recipe_text)
    meta = CheckpointMeta(
        name=recipe.name,
        version=recipe.version,
        task=task,
        preprocess=geometry,
        backbone=provenance.backbone,
        backbone_config=provenance.config,
        policy=policy,
        dataset_fingerprint=job.dataset.fingerprint,
        test_fingerprint=job.dataset.test_fingerprint,
        weights_sha256=sha256,
        metrics={split: summary(seen[split], policy) for split in splits},
        training=told,
    )
    files.write_meta(job.out, meta)
    return meta


def _policy(task: Task, recipe: Recipe, val: Judged) -> DensePolicy:
    if task.kind == "detection":
        return detection_policy(task, recipe, val.said.boxes, objects(val.samples.drawn), val.shown)
    places = val.defect_map.shape[1:]
    marked = tiles.any_marked(val.marked, (places[0], places[1]))
    return segmentation_policy(task, recipe, val.defect_map, marked, val.shown, val.pixels_a_cell)


def _write_weights(out: Path, network: DenseNetwork) -> str:
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in network.dense.state_dict().items()}
    durable.write_bytes(out / files.WEIGHTS, save(tensors))
    return files.sha256_of(out / files.WEIGHTS)

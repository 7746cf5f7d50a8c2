"""From a recipe and a dataset to a checkpoint: read, head on frozen features, fine-tune, choose, score, write."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_sft import checkpoint as files
from edge_sft import durable
from edge_sft.checkpoint import CheckpointMeta, Scores
from edge_sft.data.dataset import Dataset, SplitName
from edge_sft.errors import BugError, DataError
from edge_sft.metrics.calibration import fit_temperature
from edge_sft.metrics.plant import choose_policy
from edge_sft.metrics.summary import summary
from edge_sft.models.registry import Provenance, build_with_provenance
from edge_sft.progress import Progress, Silent
from edge_sft.recipe import Recipe
from edge_sft.task import image_classification
from edge_sft.training import machine, schedule
from edge_sft.training.head import fit_head
from edge_sft.training.loop import FineTuning, Outcome
from edge_sft.training.network import Network, Parameters
from edge_sft.training.pictures import Pictures, decode
from edge_sft.training.scoring import Scorer
from edge_sft.training.selection import Choice, choose
from edge_sft.training.state import Facts, Store, training_key
from edge_sft.training.world import Alone, World

# a state is about 50 MB: every validation would wear a disk and cost time that redoing a few steps does not
SAVE_EVERY_S = 20.0
_CACHE = "pictures.cache"
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
    _refuse(recipe, dataset)
    key = training_key(recipe, dataset)
    done = _finished(out, key)
    if done is not None:
        return done
    device = machine.choose_device(recipe.train.device)
    machine.keep_freed_memory()
    with _deterministic(device):
        return _train(recipe, dataset, out, key, recipe_text, progress, world, save_every_s, device)


def _train(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    key: str,
    recipe_text: str,
    progress: Progress,
    world: World,
    save_every_s: float,
    device: torch.device,
) -> CheckpointMeta | None:
    store = Store(out, key)
    facts, tensors = store.load(device) or (Facts(), {})
    facts.resumed += bool(tensors)
    meter = machine.Meter(facts.usage)
    torch.manual_seed(recipe.train.seed)
    classifier, provenance = build_with_provenance(recipe.model, len(recipe.task.labels))
    network = Network(classifier, recipe.train, device)
    cache = store.folder / f"{_CACHE}.{world.rank}"
    pictures = decode(
        dataset, recipe.task.labels, recipe.image.preprocess(), cache=cache, memory=machine.memory_bytes(),
        progress=progress,
    )  # fmt: skip
    if not tensors:
        facts.strength = _warm_up(recipe, network, pictures["train"], progress)
    tuning = FineTuning(
        network, recipe.train, recipe.augment, pictures["train"], pictures["val"],
        store=store, world=world, meter=meter, progress=progress, save_every_s=save_every_s,
    )  # fmt: skip
    outcome = tuning.run(facts, tensors)
    if world.rank != 0:
        return None
    choice = choose(network, outcome, pictures["val"])
    meta = _write(
        recipe, dataset, out, recipe_text, key, network, choice, outcome, pictures, provenance, meter, world.size
    )
    store.clear()
    return meta


def _refuse(recipe: Recipe, dataset: Dataset) -> None:
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
    if missing:
        raise DataError(
            where,
            f"has no training pictures of {', '.join(repr(label) for label in missing)}",
            "Add some, or take the label out of task.labels.",
        )


def _finished(out: Path, key: str) -> CheckpointMeta | None:
    try:
        meta = files.read_meta(out)
    except DataError:
        return None
    return meta if meta.training.get("key") == key else None


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # a few CUDA kernels have no deterministic twin: there it is best effort, on the CPU it is a promise
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _warm_up(recipe: Recipe, network: Network, train: Pictures, progress: Progress) -> float:
    """Put the logistic regression on frozen features into the head; returns its L2 strength."""
    progress.start("Learning on frozen features", len(train))
    features = Scorer(network, train.images).features(progress)
    labels = torch.from_numpy(train.labels)
    drawn = schedule.class_probabilities(train.labels, train.weights, recipe.train.class_balance)
    mass = np.bincount(train.labels, weights=train.weights.astype(np.float64), minlength=len(drawn))
    share: NDArray[np.float64] = drawn[train.labels] / mass[train.labels] * train.weights
    weights: Tensor = torch.from_numpy(share.astype(np.float32))
    head = fit_head(features, labels, weights, train.groups, len(recipe.task.labels))
    with torch.no_grad():
        network.classifier.head.weight.copy_(head.weight)
        network.classifier.head.bias.copy_(head.bias)
    return head.strength


def _write(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    recipe_text: str,
    key: str,
    network: Network,
    choice: Choice,
    outcome: Outcome,
    pictures: dict[SplitName, Pictures],
    provenance: Provenance,
    meter: machine.Meter,
    processes: int,
) -> CheckpointMeta:
    labels, preprocess = recipe.task.labels, recipe.image.preprocess()
    task = image_classification(labels, recipe.ok_labels, preprocess.height, preprocess.width)
    network.put(choice.parameters)
    val, test = pictures["val"], pictures["test"]
    temperature = round(fit_temperature(choice.logits, val.labels, val.weights), 6)
    scores = {
        "val": _scores(choice.logits, val, temperature),
        "test": _scores(Scorer(network, test.images).logits(), test, temperature),
    }
    policy = choose_policy(scores["val"], task, recipe.policy)
    sha256 = _write_weights(out, network)
    files.write_scores(out, scores)
    durable.write_text(out / files.RECIPE, recipe_text)
    used = meter.usage()
    meta = CheckpointMeta(
        name=recipe.name,
        version=recipe.version,
        task=task,
        preprocess=preprocess,
        backbone=recipe.model.backbone,
        policy=policy,
        temperature=temperature,
        dataset_fingerprint=dataset.fingerprint,
        test_fingerprint=dataset.test_fingerprint,
        weights_sha256=sha256,
        metrics={
            "val": summary(scores["val"], task, policy, split="val"),
            "test": summary(scores["test"], task, policy, split="test"),
        },
        training={
            "key": key,
            "chosen": choice.name,
            "candidates": choice.merits,
            "steps": outcome.facts.step,
            "best_step": outcome.facts.best_step,
            "last_weights_sha256": _digest(outcome.raw),  # whichever were kept: two runs are compared by it
            "head_strength": outcome.facts.strength,
            "history": outcome.facts.history,
            "resumed": outcome.facts.resumed,
            "processes": processes,
            "pictures": {split: len(part) for split, part in pictures.items()},
            "weights": provenance.origin,
            "weights_sha256": provenance.sha256,
            "wall_s": round(used.wall_s, 1),
            "cpu_s": round(used.cpu_s, 1),
            **machine.facts(network.device),
        },
    )
    files.write_meta(out, meta)
    return meta


def _scores(logits: NDArray[np.float32], pictures: Pictures, temperature: float) -> Scores:
    probabilities = torch.softmax(torch.from_numpy(logits) / temperature, dim=1).numpy()
    return Scores([item.id for item in pictures.items], pictures.labels, probabilities, pictures.weights)


def _digest(parameters: Parameters) -> str:
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(name.encode() + parameters[name].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _write_weights(out: Path, network: Network) -> str:
    from safetensors.torch import save

    tensors: Parameters = {
        name: value.detach().cpu().contiguous() for name, value in network.classifier.state_dict().items()
    }
    durable.write_bytes(out / files.WEIGHTS, save(tensors))
    return files.sha256_of(out / files.WEIGHTS)

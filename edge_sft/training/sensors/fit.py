"""From a sensor recipe and runs to a checkpoint directory: dispatch by the task's kind, write, checkpoint.json last."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch

from edge_sft import checkpoint as files
from edge_sft import durable
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.sensors.dataset import SensorDataset
from edge_sft.errors import DataError
from edge_sft.progress import Progress, Silent
from edge_sft.sensor_recipe import SensorRecipe
from edge_sft.training.sensors.trained import Trained

# each has train(recipe, dataset, progress) -> Trained
KINDS = {
    "regression": "edge_sft.training.sensors.regression",
    "classification": "edge_sft.training.sensors.faults",
    "anomaly": "edge_sft.training.sensors.anomaly",
}
_SILENT = Silent()


def fit_sensors(
    recipe: SensorRecipe, dataset: SensorDataset, out: Path, *, recipe_text: str, progress: Progress = _SILENT
) -> CheckpointMeta:
    """Train as the recipe says and write the checkpoint directory.

    A finished checkpoint of the same recipe and data is returned as it is.

    Args:
        recipe: What to train.
        dataset: The runs, with their splits.
        out: The checkpoint directory; made when missing.
        recipe_text: The recipe as the user wrote it, kept beside the weights.
        progress: Told how far it is.

    Raises:
        DataError: Nothing to train on, or a loss that is no number.
        UserError: A base that is not here or of another family.
        DeviceError: The disk refuses a file.
    """
    key = training_key(recipe, dataset)
    done = finished(out, key)
    if done is not None:
        return done
    if not dataset.split("train"):
        raise DataError(str(dataset.root), "has no runs to train on", "Look at what `edge-sft check` says.")
    began = time.monotonic()
    with reproducible(recipe.train.seed):
        trained: Trained = import_module(KINDS[recipe.task.kind]).train(recipe, dataset, progress)
    facts = {**trained.facts, "key": key, "config": trained.config, "wall_s": round(time.monotonic() - began, 1)}
    return write(recipe, dataset, out, recipe_text, trained, facts)


def training_key(recipe: SensorRecipe, dataset: SensorDataset) -> str:
    """Digest all that decides the result: the recipe (not where its files lie), the rows, the base's weights."""
    plain = recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"path": ""}),
            "model": recipe.model.model_copy(update={"base": None}),
        }
    )
    base = "" if recipe.model.base is None else files.read_meta(Path(recipe.model.base)).weights_sha256
    parts = (plain.model_dump_json(exclude={"export", "federated"}), dataset.fingerprint, base)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def write(
    recipe: SensorRecipe,
    dataset: SensorDataset,
    out: Path,
    recipe_text: str,
    trained: Trained,
    facts: dict[str, object],
) -> CheckpointMeta:
    """Write a finished model's checkpoint directory, checkpoint.json last. Raises DeviceError: the disk refuses."""
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in trained.module.state_dict().items()}
    (out / files.META).unlink(missing_ok=True)  # what is written next no longer belongs to it
    durable.write_bytes(out / files.WEIGHTS, save(tensors))
    files.write_sensor_scores(out, trained.scores)
    durable.write_text(out / files.RECIPE, recipe_text)
    meta = CheckpointMeta(
        name=recipe.name,
        version=recipe.version,
        task=trained.task,
        preprocess=recipe.windowing(),
        backbone=trained.architecture,
        policy=trained.policy,
        dataset_fingerprint=dataset.fingerprint,
        test_fingerprint=dataset.test_fingerprint,
        weights_sha256=files.sha256_of(out / files.WEIGHTS),
        metrics=trained.metrics,
        training=facts,
    )
    files.write_meta(out, meta)
    return meta


def finished(out: Path, key: str) -> CheckpointMeta | None:
    """Return the checkpoint of this very training where it is there already."""
    try:
        meta = files.read_meta(out)
    except DataError:
        return None
    return meta if meta.training.get("key") == key else None


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Fixed seed, deterministic kernels, one thread: these nets are too small to share, and sums keep their order."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.get_num_threads(),
    )
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.set_num_threads(before[2])

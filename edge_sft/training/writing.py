"""The checkpoint of a finished training: scored, calibrated, with its policy; checkpoint.json last."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sft import checkpoint as files
from edge_sft import durable
from edge_sft.checkpoint import CheckpointMeta, Scores
from edge_sft.data.dataset import Dataset, SplitName
from edge_sft.metrics.calibration import fit_temperature
from edge_sft.metrics.plant import choose_policy
from edge_sft.metrics.summary import summary
from edge_sft.models.registry import Provenance
from edge_sft.recipe import Recipe
from edge_sft.task import image_classification
from edge_sft.training import machine
from edge_sft.training.loop import Outcome
from edge_sft.training.network import Network, Parameters
from edge_sft.training.pictures import Pictures
from edge_sft.training.scoring import Scorer
from edge_sft.training.selection import Choice


@dataclass(frozen=True)
class Job:
    """What one training was asked for; ``key`` is the digest of all that decides its result."""

    recipe: Recipe
    dataset: Dataset
    out: Path
    recipe_text: str
    key: str


def write_checkpoint(
    job: Job,
    network: Network,
    choice: Choice,
    pictures: dict[SplitName, Pictures],
    facts: dict[str, Any],
    provenance: Provenance,
) -> CheckpointMeta:
    """Score the chosen parameters and write the checkpoint directory.

    Args:
        job: The training.
        network: Its network; the chosen parameters are put into it.
        choice: What was chosen on validation.
        pictures: All splits, decoded.
        facts: What ``training`` in checkpoint.json shall say.
        provenance: Says how the backbone is called, and described where no name tells all.

    Raises:
        DeviceError: The disk refuses a file.
    """
    recipe, preprocess = job.recipe, job.recipe.image.preprocess()
    task = image_classification(recipe.task.labels, recipe.ok_labels, preprocess.height, preprocess.width)
    network.put(choice.parameters)
    val, test = pictures["val"], pictures["test"]
    temperature = round(fit_temperature(choice.logits, val.labels, val.weights), 6)
    scores = {
        "val": _scores(choice.logits, val, temperature),
        "test": _scores(Scorer(network, test.images).logits(), test, temperature),
    }
    policy = choose_policy(scores["val"], task, recipe.policy)
    durable.sweep(job.out)
    sha256 = _write_weights(job.out, network)
    files.write_scores(job.out, scores)
    durable.write_text(job.out / files.RECIPE, job.recipe_text)
    meta = CheckpointMeta(
        name=recipe.name,
        version=recipe.version,
        task=task,
        preprocess=preprocess,
        backbone=provenance.backbone,
        backbone_config=provenance.config,
        policy=policy,
        temperature=temperature,
        dataset_fingerprint=job.dataset.fingerprint,
        test_fingerprint=job.dataset.test_fingerprint,
        weights_sha256=sha256,
        metrics={
            "val": summary(scores["val"], task, policy, split="val"),
            "test": summary(scores["test"], task, policy, split="test"),
        },
        training=facts,
    )
    files.write_meta(job.out, meta)
    return meta


def facts_of(
    job: Job, choice: Choice, outcome: Outcome, provenance: Provenance, used: machine.Usage
) -> dict[str, str | float | list[Any] | dict[str, Any] | None]:
    """Return what is worth knowing of a training later, as JSON values."""
    return {
        "key": job.key,
        "chosen": choice.name,
        "candidates": choice.merits,
        "steps": outcome.facts.step,
        "best_step": outcome.facts.best_step,
        "last_weights_sha256": _digest(outcome.raw),  # whichever were kept: two runs are compared by it
        "head_strength": outcome.facts.strength,
        "history": outcome.facts.history,
        "resumed": outcome.facts.resumed,
        "weights": provenance.origin,
        "weights_sha256": provenance.sha256,
        "wall_s": round(used.wall_s, 1),
        "cpu_s": round(used.cpu_s, 1),
    }


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

    tensors = {name: value.detach().cpu().contiguous() for name, value in network.classifier.state_dict().items()}
    durable.write_bytes(out / files.WEIGHTS, save(tensors))
    return files.sha256_of(out / files.WEIGHTS)

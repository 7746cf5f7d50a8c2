"""Checkpoint: a directory of safetensors weights, recipe, task, preprocessing, metrics and the data's fingerprint.

Never a pickle; this module reads and writes its JSON and paths and knows no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_sft import durable
from edge_sft.errors import BugError, DataError
from edge_sft.policy import AnyPolicy, Policy
from edge_sft.preprocess import AnyPreprocess, Preprocess, Windowing
from edge_sft.task import Task

WEIGHTS = "model.safetensors"
META = "checkpoint.json"
RECIPE = "recipe.toml"
REPORT = "report.html"
SCORES = "scores.npz"
SENSOR_SCORES = "sensor_scores.npz"


class CheckpointMeta(BaseModel):
    """checkpoint.json, version 1.

    ``metrics`` has one flat dict of numbers a split (``val``, ``test``). ``temperature`` is already part of
    what export puts into the graph: probabilities = softmax(logits / temperature). ``backbone_config`` describes
    a network that its name alone does not (one from a Hugging Face directory).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    name: str
    version: str
    task: Task
    preprocess: AnyPreprocess
    backbone: str
    backbone_config: dict[str, Any] | None = None
    policy: AnyPolicy
    temperature: float = Field(default=1.0, gt=0)
    dataset_fingerprint: str
    test_fingerprint: str | None = None
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    metrics: dict[str, dict[str, float]] = {}
    training: dict[str, Any] = {}

    @property
    def geometry(self) -> Preprocess:
        """The picture's geometry. Raises BugError for a model of sensors."""
        if not isinstance(self.preprocess, Preprocess):
            raise BugError(self.name, "is a model of sensors and was taken for one of pictures", "Please report it.")
        return self.preprocess

    @property
    def windowing(self) -> Windowing:
        """The windows' making. Raises BugError for a model of pictures."""
        if not isinstance(self.preprocess, Windowing):
            raise BugError(self.name, "is a model of pictures and was taken for one of sensors", "Please report it.")
        return self.preprocess

    @property
    def rule(self) -> Policy:
        """The policy of a classification. Raises BugError for other kinds."""
        if not isinstance(self.policy, Policy):
            raise BugError(self.name, f"is no classification but {self.task.kind}", "Please report it.")
        return self.policy


@dataclass(frozen=True)
class Scores:
    """What the checkpoint's model said about one split, saved for gates and reports.

    Attributes:
        ids: Sample identities (paths relative to the data folder), [N].
        labels: True label indices int64 [N].
        probabilities: float32 [N, K].
        weights: Sample weights float32 [N].
    """

    ids: list[str]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    weights: NDArray[np.float32]


def write_meta(directory: Path, meta: CheckpointMeta) -> None:
    """Write checkpoint.json durably; written last, it is what makes the directory a checkpoint."""
    durable.write_text(directory / META, meta.model_dump_json(indent=2) + "\n")


def read_meta(directory: Path, *, verify: bool = True) -> CheckpointMeta:
    """Read checkpoint.json and, unless told not to, check the weights' SHA-256.

    Raises:
        DataError: No checkpoint there, an unknown schema, or damaged weights.
    """
    path = directory / META
    if not path.is_file():
        raise DataError(str(directory), f"is no checkpoint ({META} is missing)", "Run: edge-sft train RECIPE")
    try:
        meta = CheckpointMeta.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DataError(
            str(path),
            f"is not a checkpoint this version reads ({'.'.join(map(str, first['loc']))}: {first['msg']})",
            "Train again, or use the version of edge-sft that wrote it.",
        ) from error
    if verify and sha256_of(directory / WEIGHTS) != meta.weights_sha256:
        raise DataError(str(directory / WEIGHTS), "does not match its SHA-256: damaged or changed", "Train again.")
    return meta


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hex. Raises DataError when it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
            return digest.hexdigest()
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror or error})", "Check the file.") from error


def write_scores(directory: Path, scores: dict[str, Scores]) -> None:
    """Save what the model said about each split (scores.npz)."""
    arrays: dict[str, Any] = {}
    for split, item in scores.items():
        arrays[f"{split}/ids"] = np.frombuffer(json.dumps(item.ids).encode(), dtype=np.uint8)
        arrays[f"{split}/labels"] = item.labels
        arrays[f"{split}/probabilities"] = item.probabilities
        arrays[f"{split}/weights"] = item.weights
    with durable.replacing(directory / SCORES) as file:
        np.savez_compressed(file, **arrays)


def read_scores(directory: Path) -> dict[str, Scores]:
    """Read scores.npz back. Raises DataError when it is missing or damaged."""
    path = directory / SCORES
    try:
        with np.load(path, allow_pickle=False) as archive:
            splits = sorted({key.split("/")[0] for key in archive.files})
            return {
                split: Scores(
                    ids=json.loads(archive[f"{split}/ids"].tobytes()),
                    labels=archive[f"{split}/labels"],
                    probabilities=archive[f"{split}/probabilities"],
                    weights=archive[f"{split}/weights"],
                )
                for split in splits
            }
    except (OSError, ValueError, KeyError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "Train again.") from error


def write_sensor_scores(directory: Path, scores: dict[str, NDArray[Any]]) -> None:
    """Save what a model of sensors said, as named arrays (sensor_scores.npz); keys are ``<split>/<name>``."""
    with durable.replacing(directory / SENSOR_SCORES) as file:
        np.savez_compressed(file, **{key: np.asarray(value) for key, value in scores.items()})  # type: ignore[arg-type]


def read_sensor_scores(directory: Path) -> dict[str, NDArray[Any]]:
    """Read sensor_scores.npz back. Raises DataError when it is missing or damaged."""
    path = directory / SENSOR_SCORES
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "Train again.") from error

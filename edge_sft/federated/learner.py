"""What federated fine-tuning asks of a site's training: give and take weights, learn for a while, judge.

Each model family has one implementation, over the same code that trains it centrally. What is local to a site (how
its signals are normalised, its thresholds, its memory bank) is never among the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_sft.checkpoint import CheckpointMeta
from edge_sft.progress import Progress

Arrays = dict[str, NDArray[np.float32]]
Part = Literal["body", "norm", "bias", "head"]
JudgedSplit = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Learnt:
    """What one stretch of local training came to.

    Attributes:
        samples: How many samples the site learns from: its weight in the average.
        loss: Mean training loss of the stretch.
        steps: Optimiser steps that were made.
    """

    samples: int
    loss: float
    steps: int


@dataclass(frozen=True)
class Judged:
    """What the weights as they are now do on one split.

    Attributes:
        samples: How many were judged; 0 where the split is empty.
        score: One number of which more is better (balanced accuracy; minus the root mean square error).
        numbers: Whatever else is worth a line in the report, by the names that central metrics use.
    """

    samples: int
    score: float
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Compatible:
    """What must be the same at every site for weights to mean the same, in words that a refusal can print."""

    facts: dict[str, str]

    def differences(self, other: Compatible) -> list[str]:
        """Return ``name: here, there`` for each fact that differs."""
        names = sorted({*self.facts, *other.facts})
        return [
            f"{name}: {self.facts.get(name, 'nothing')}, {other.facts.get(name, 'nothing')}"
            for name in names
            if self.facts.get(name) != other.facts.get(name)
        ]


class Learner(Protocol):
    """A site's model and data, ready to learn. The same calls give the same bits."""

    @property
    def compatible(self) -> Compatible:
        """Labels, channels, geometry, architecture, digest of the starting weights: equal at all sites."""
        ...

    @property
    def parts(self) -> dict[str, Part]:
        """For each weight's name what it is: what may be shared is chosen by it."""
        ...

    @property
    def base(self) -> Path | None:
        """Where a checkpoint of the starting weights lies, if the recipe names one."""
        ...

    @property
    def samples(self) -> dict[JudgedSplit, int]:
        """How many samples each split has here; ``train`` is the site's weight in the average."""
        ...

    @property
    def fingerprint(self) -> str:
        """The digest of the site's data, for the record of rounds; the data cannot be told from it."""
        ...

    @property
    def groups(self) -> dict[str, str]:
        """What each judged sample (picture, run) belongs to, by its id: part, machine. They are compared together."""
        ...

    def opening(self) -> Arrays:
        """Return what of the data the common starting weights are made with, before round 1; mostly nothing."""
        ...

    def weights(self) -> Arrays:
        """Return copies of all weights that learn, float32, by name."""
        ...

    def load(self, weights: Arrays) -> None:
        """Overwrite the weights that are named. Raises DataError: unknown names, other shapes, not finite."""
        ...

    def train(
        self, *, round_number: int, rounds: int, steps: int | None, proximal: float, progress: Progress
    ) -> Learnt:
        """Learn from the weights as they are.

        Args:
            round_number: 1 for the first; with ``rounds`` it decides the learning rate's course.
            rounds: How many there will be.
            steps: Optimiser steps; None = the central recipe's, divided by ``rounds``.
            proximal: FedProx's μ: pulls towards the weights that the round began with (Li et al. 2020).
            progress: Told how far it is.

        Raises:
            DataError: The loss is no number.
        """
        ...

    def judge(self, split: JudgedSplit) -> Judged:
        """Judge the weights as they are on a split."""
        ...

    def judge_checkpoint(self, checkpoint: Path, split: JudgedSplit) -> Judged:
        """Judge a finished model of the same recipe, whoever trained it, on a split of this site.

        The numbers' names are those of the checkpoints' metrics. Raises DataError: it is none, or of another recipe.
        """
        ...

    def alone(self, out: Path, progress: Progress) -> CheckpointMeta:
        """Train as `edge-sft train` does, by this site's data alone; the weights here stay as they are.

        Args:
            out: The checkpoint's folder; a finished one of this training is returned as it is.
            progress: Told how far it is.
        """
        ...

    def checkpoint(self, out: Path, *, personal: bool, progress: Progress) -> CheckpointMeta:
        """Write a checkpoint directory of this site.

        Args:
            out: Made when missing; a finished one of the same weights and recipe is returned as it is.
            personal: Fine-tune on the site's data first, and keep on validation whichever is best of: alone, as the
                weights are now, personalised, and what lies between. False writes the weights as they are.
            progress: Told how far it is.
        """
        ...

"""The anomaly encoder, learnt together; memories of normal behaviour and thresholds are made on each machine.

What a channel's course looks like is the same everywhere, and the net learns it from healthy rows alone. It is judged
by how well it ranks labelled rows of machines, each by a memory of that machine's own beginning.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edge_sft.checkpoint import CheckpointMeta, read_meta
from edge_sft.data.sensors.dataset import SensorDataset
from edge_sft.errors import DataError, UserError
from edge_sft.federated.learner import Arrays, Compatible, Judged, JudgedSplit, Learnt, Part
from edge_sft.federated.learners import weights as named
from edge_sft.models.sensors import inference
from edge_sft.progress import Progress, Silent
from edge_sft.sensor_recipe import SensorRecipe
from edge_sft.training.sensors import anomaly
from edge_sft.training.sensors.anomaly_encoder import Course, healthy_stretches
from edge_sft.training.sensors.commissioned import numbers
from edge_sft.training.sensors.fit import finished, fit_sensors, reproducible, training_key, write

_SILENT = Silent()


class EncoderLearner:
    """A site's healthy rows, and the encoder with what only its training needs."""

    def __init__(self, recipe: SensorRecipe, dataset: SensorDataset, recipe_text: str, work: Path) -> None:
        if recipe.model.architecture != anomaly.ENCODER:
            fact = "has nothing that could be learnt together"
            raise UserError(f"model.architecture {recipe.model.architecture}", fact, 'Set it to "encoder".')
        anomaly.check(recipe)
        self._recipe, self._dataset, self._text, self._work = recipe, dataset, recipe_text, work
        with reproducible(recipe.train.seed):
            self._healthy = healthy_stretches(recipe, dataset.split("train"))
            self._course = Course.of(recipe, self._healthy)
        if not self._course.stretches:
            raise DataError(str(dataset.root), "has no healthy stretch to learn from", "Record longer runs.")
        self._start = named.digest(self.weights())

    @property
    def compatible(self) -> Compatible:
        """What must be equal at all sites; which channels there are need not be: each goes through the net alone."""
        window = self._recipe.window
        return Compatible(
            {
                "window": f"{window.length} x {window.period_s:g} s, hop {window.hop}",
                "embedding": str(self._recipe.model.embedding),
                "starting weights": self._start,
            }
        )

    @property
    def parts(self) -> dict[str, Part]:
        """What each weight is; the head is what only training needs."""
        return named.parts_of(self._nets(), self._state(), heads=("1.",))

    @property
    def base(self) -> Path | None:
        """None: the starting weights are drawn from the recipe's seed."""
        return None

    @property
    def samples(self) -> dict[JudgedSplit, int]:
        """How many patches there are to learn from, and recordings to judge."""
        return {
            "train": sum(len(one.patches) for one in self._course.stretches),
            "val": len(self._dataset.split("val")),
            "test": len(self._dataset.split("test")),
        }

    @property
    def fingerprint(self) -> str:
        """The digest of the site's data."""
        return self._dataset.fingerprint

    @property
    def groups(self) -> dict[str, str]:
        """Which machine each judged run is of."""
        return {run.id: run.group for run in self._dataset.runs if run.split != "train"}

    def opening(self) -> Arrays:
        """Nothing: the starting weights are the same without it."""
        return {}

    def weights(self) -> Arrays:
        """Return copies of the weights and the norms' statistics."""
        return named.copies(self._state())

    def load(self, weights: Arrays) -> None:
        """Overwrite the weights that are named. Raises DataError: unknown names, other shapes, not finite."""
        named.overwrite(self._state(), weights)

    def train(
        self, *, round_number: int, rounds: int, steps: int | None, proximal: float, progress: Progress
    ) -> Learnt:
        """Learn for one round: a part of the central course."""
        count = max(1, self._course.steps // rounds) if steps is None else steps
        seed = self._recipe.train.seed + 1000 * round_number
        progress.start("learning what channels look like", count)
        with reproducible(seed):
            loss = self._course.go(
                (round_number - 1) * count, count, whole=rounds * count, seed=seed, progress=progress, proximal=proximal
            )
        return Learnt(self.samples["train"], loss, count)

    def judge(self, split: JudgedSplit) -> Judged:
        """Judge by the mean area under the curve over labelled runs."""
        return self._judged(self._course.encoder, split)

    def judge_checkpoint(self, checkpoint: Path, split: JudgedSplit) -> Judged:
        """Judge a finished model; see `edge_sft.federated.learner.Learner`."""
        with reproducible(self._recipe.train.seed):
            return self._judged(self._loaded(checkpoint), split)

    def alone(self, out: Path, progress: Progress) -> CheckpointMeta:
        """Train as `edge-sft train` would; see `edge_sft.federated.learner.Learner`."""
        return fit_sensors(self._recipe, self._dataset, out, recipe_text=self._text, progress=progress)

    def checkpoint(self, out: Path, *, personal: bool, progress: Progress) -> CheckpointMeta:
        """Write a checkpoint; see `edge_sft.federated.learner.Learner`."""
        kind, here = "personal" if personal else "global", named.digest(self.weights())
        key = f"{training_key(self._recipe, self._dataset)} {kind} {here}"
        done = finished(out, key)
        if done is not None:
            return done
        began = time.monotonic()
        with reproducible(self._recipe.train.seed):
            encoder, told = self._personal(progress) if personal else (self._course.encoder, {"candidates": {}})
            trained = anomaly.conclude(
                self._recipe, self._dataset, anomaly.ENCODER, encoder, {"tried": {}, **told}, progress
            )
        facts: dict[str, Any] = {**trained.facts, "chosen": told.get("kept", kind), "federated": kind}
        facts |= {"global_sha256": here, "key": key, "config": trained.config}
        facts["wall_s"] = round(time.monotonic() - began, 1)
        return write(self._recipe, self._dataset, out, self._text, trained, facts)

    def _personal(self, progress: Progress) -> tuple[nn.Module, dict[str, Any]]:
        """Keep on labelled validation runs the better of shared and alone; the shared encoder where there are none."""
        self.alone(self._work / "alone", progress)
        found: dict[str, nn.Module] = {
            "global": copy.deepcopy(self._course.encoder),
            "alone": self._loaded(self._work / "alone"),
        }
        scores = {name: round(self._judged(encoder, "val").score, 6) for name, encoder in found.items()}
        best = max(found, key=lambda name: scores[name])
        return found[best], {"kept": best, "candidates": scores}

    def _loaded(self, checkpoint: Path) -> nn.Module:
        """Return a checkpoint's encoder. Raises DataError: it is none, or of another method."""
        module = inference.load(checkpoint)
        if read_meta(checkpoint).backbone != anomaly.ENCODER:
            raise DataError(str(checkpoint), "is of another method", "Take one of the same recipe.")
        return module.get_submodule("statistics.encoder")

    def _judged(self, encoder: nn.Module, split: JudgedSplit) -> Judged:
        runs = self._dataset.split(split)
        usual = anomaly.usual_shares(self._recipe, self._dataset.split("train"))
        made = anomaly.assemble(self._recipe, anomaly.ENCODER, encoder, usual=usual)
        judged = anomaly.judge(self._recipe, made, runs, split, _SILENT)
        found = numbers(judged) if judged else {}
        return Judged(len(judged), found.get("auroc", 0.0), found)

    def _nets(self) -> nn.ModuleList:
        return nn.ModuleList([self._course.encoder, self._course.heads])

    def _state(self) -> dict[str, Tensor]:
        state = self._nets().state_dict(keep_vars=True)
        return {name: value for name, value in state.items() if value.is_floating_point()}

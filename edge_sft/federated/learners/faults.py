"""Faults, told apart together: every view's nets are shared; standardisation, views, temperature and policy are local.

Which views speak is each site's own choice, so all of them are learnt at all sites.

A site without training windows of a label tells apart the labels that it has and leaves what the nets say of the other
to those that have it. What it would learn alone then cannot know that label, and its validation samples would not show
it: so its own model is the common one or that fine-tuned, never the one learnt alone.
"""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.sensors.dataset import SensorDataset
from edge_sft.errors import DataError
from edge_sft.federated import site_labels
from edge_sft.federated.learner import Arrays, Compatible, Judged, JudgedSplit, Learnt, Part
from edge_sft.federated.learners import weights as named
from edge_sft.models.sensors import inference
from edge_sft.models.sensors.classifier import FaultClassifier, Heads
from edge_sft.progress import Progress, Silent
from edge_sft.sensor_recipe import FaultTask, SensorRecipe
from edge_sft.training.merit import merit
from edge_sft.training.sensors import faults
from edge_sft.training.sensors.choosing import Chosen, choose_views, joined
from edge_sft.training.sensors.examples import Examples, examples_of
from edge_sft.training.sensors.fit import finished, fit_sensors, reproducible, training_key, write
from edge_sft.training.sensors.heads import Training, fit_on, fresh_heads, predict

PERSONAL_STEPS = 1 / 3
PERSONAL_RATE = 0.1
_SILENT = Silent()


class FaultLearner:
    """A site's labelled machines, and the nets of every view."""

    def __init__(
        self, recipe: SensorRecipe, dataset: SensorDataset, recipe_text: str, work: Path, progress: Progress
    ) -> None:
        self._recipe, self._dataset, self._text, self._work = recipe, dataset, recipe_text, work
        self._how = faults.training_of(recipe)
        with reproducible(recipe.train.seed):
            self._heard = faults.hear(recipe, dataset.split("train"), progress, root=str(dataset.root), partial=True)
            torch.manual_seed(recipe.train.seed)
            self._heads = [head.eval() for head in fresh_heads(self._heard.known, self._how)]
        self._lacks = site_labels.lacks(recipe, dataset)
        known = tuple(int(label) for label in np.unique(self._heard.known.label))
        self._known = known if len(known) < self._how.labels else ()
        self._chosen: Chosen | None = None
        self._start = named.digest(self.weights())

    @property
    def compatible(self) -> Compatible:
        """What must be equal at all sites."""
        windowing, task = self._recipe.windowing(), self._recipe.task
        assert isinstance(task, FaultTask)
        return Compatible(
            {
                "labels": ", ".join(task.labels),
                "channels": ", ".join(windowing.names),
                "window": f"{windowing.length} x {windowing.period_s:g} s",
                "views": ", ".join(self._heard.fronts.names),
                "starting weights": self._start,
            }
        )

    @property
    def parts(self) -> dict[str, Part]:
        """What each weight is; the head is every net's last layer."""
        module = torch.nn.ModuleList(self._heads)
        last = tuple({name.rpartition(".")[0] + "." for name in self._parameters() if ".4." in name})
        return named.parts_of(module, self._parameters(), heads=last)

    @property
    def base(self) -> Path | None:
        """None: the starting weights are drawn from the recipe's seed."""
        return None

    @property
    def samples(self) -> dict[JudgedSplit, int]:
        """How many labelled windows there are to learn from, and recordings to judge."""
        return {
            "train": len(self._heard.known),
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
        """Return copies of the nets' weights."""
        return named.copies(self._parameters())

    def load(self, weights: Arrays) -> None:
        """Overwrite the weights that are named. Raises DataError: unknown names, other shapes, not finite."""
        named.overwrite(self._parameters(), weights)

    def train(
        self, *, round_number: int, rounds: int, steps: int | None, proximal: float, progress: Progress
    ) -> Learnt:
        """Learn for one round from labelled windows; classes weigh alike, and machines within a class."""
        count = max(1, self._how.steps // rounds) if steps is None else steps
        progress.start("Training", 1)
        how = replace(self._how, steps=count, seed=self._how.seed + 1000 * round_number, known=self._known)
        with reproducible(how.seed):
            loss = fit_on(self._heads, self._heard.known, how, proximal=proximal)
        progress.advance()
        return Learnt(len(self._heard.known), loss, count)

    def judge(self, split: JudgedSplit) -> Judged:
        """Judge on a split by balanced accuracy: machines of a label weigh alike."""
        seen = self._seen(split)
        if not len(seen):
            return Judged(0, 0.0)
        found = faults.numbers(predict(self._heads, seen).mean(0), seen)
        return Judged(len(seen), found["balanced_accuracy"], found)

    def judge_checkpoint(self, checkpoint: Path, split: JudgedSplit) -> Judged:
        """Judge a finished model; see `edge_sft.federated.learner.Learner`."""
        runs = self._dataset.split(split)
        with reproducible(self._recipe.train.seed):
            said = faults.Judged.of(self._loaded(checkpoint), self._recipe, split, runs, _SILENT)
        found = faults.numbers(said.probabilities, said.seen)
        return Judged(int(found["windows"]), found.get("balanced_accuracy", 0.0), found)

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
            chosen = self._views()
            shared = [self._heads[place] for place in chosen.views]
            picked, told = self._personal(chosen, progress) if personal else (shared, {"chosen": "global"})
            module, config = self._heard.assembled(self._recipe, chosen, picked)
            trained = faults.conclude(self._recipe, self._dataset, self._heard.known, module, chosen, config, progress)
        facts: dict[str, Any] = {**trained.facts, **told, "federated": kind, "global_sha256": here}
        facts |= {"lacks": self._lacks.facts} if self._lacks.facts else {}
        facts |= {"key": key, "config": trained.config, "wall_s": round(time.monotonic() - began, 1)}
        return write(self._recipe, self._dataset, out, self._text, trained, facts)

    def _views(self) -> Chosen:
        """Choose the views that speak, once: they are the site's own and those of a model that it learns alone."""
        if self._chosen is None:
            names = self._heard.fronts.names
            self._chosen = choose_views(self._heard.known, names, self._how, self._recipe.train.folds)
        return self._chosen

    def _loaded(self, checkpoint: Path) -> FaultClassifier:
        """Return a checkpoint's classifier. Raises DataError: it is none, or of another kind."""
        module = inference.load(checkpoint)
        if not isinstance(module, FaultClassifier):
            raise DataError(str(checkpoint), "is of another kind of model", "Take one of the same recipe.")
        return module

    def _personal(self, chosen: Chosen, progress: Progress) -> tuple[list[Heads], dict[str, Any]]:
        """Keep on validation machines the best of alone, global and personal; personal where there are none."""
        tuned = copy.deepcopy(self._heads)
        fit_on(tuned, self._heard.known, self._gentle())
        both = {"personal": tuned, "global": self._heads}
        found = {name: [heads[place] for place in chosen.views] for name, heads in both.items()}
        if not self._known:
            self.alone(self._work / "alone", progress)
            found["alone"] = [head for head in self._loaded(self._work / "alone").heads if isinstance(head, Heads)]
        seen = self._seen("val").views(chosen.views)
        merits = {name: round(self._merit(heads, seen), 6) for name, heads in found.items()}
        best = max(found, key=lambda name: merits[name])
        views = joined(self._heard.fronts.names, chosen.views)
        return found[best], {"chosen": best, "candidates": merits, "chosen_views": views}

    def _gentle(self) -> Training:
        return replace(
            self._how,
            steps=max(1, round(self._how.steps * PERSONAL_STEPS)),
            learning_rate=self._how.learning_rate * PERSONAL_RATE,
            seed=self._how.seed + 1_000_000,
            known=self._known,
        )

    def _merit(self, heads: list[Heads], seen: Examples) -> float:
        if not len(seen):
            return 0.0
        said = predict(heads, seen).mean(0)
        weights = np.ones(len(seen), dtype=np.float32)
        return merit(np.log(said + 1e-7).astype(np.float32), seen.label, weights)

    def _seen(self, split: JudgedSplit) -> Examples:
        if split == "train":
            return self._heard.known
        runs, fronts = self._dataset.split(split), self._heard.fronts
        seen = examples_of(fronts, self._recipe.windowing(), runs, _SILENT, title=f"judging {split}")
        return seen.take(seen.label >= 0)

    def _parameters(self) -> dict[str, Tensor]:
        return {
            f"{place}.{name}": value
            for place, head in enumerate(self._heads)
            for name, value in head.named_parameters()
        }

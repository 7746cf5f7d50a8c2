"""Pictures, sorted together: all that learns is shared, from the same pre-trained base; frozen stages never travel.

A round is a part of the central recipe's own course of learning rates. Afterwards a site fine-tunes the shared weights
on its own pictures as it would the pre-trained ones, and keeps what its validation pictures say is best.

A site without training pictures of a label tells apart the labels that it has and leaves the head's row of the other
to those that have it. What it would learn alone then cannot know that label, and its validation samples would not show
it: so its own model is the common one or that fine-tuned, never the one learnt alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from edge_sft.checkpoint import WEIGHTS, CheckpointMeta, read_meta
from edge_sft.data.dataset import Dataset
from edge_sft.errors import DataError
from edge_sft.federated import site_labels
from edge_sft.federated.learner import Arrays, Compatible, Judged, JudgedSplit, Learnt, Part
from edge_sft.federated.learners import weights as named
from edge_sft.metrics.classification import balanced_accuracy as recall
from edge_sft.metrics.classification import confusion_matrix
from edge_sft.models.registry import build_with_provenance
from edge_sft.progress import Progress
from edge_sft.recipe import Recipe
from edge_sft.training import machine, schedule
from edge_sft.training.fit import SAVE_EVERY_S, deterministic, finished, fit, refuse, warm_up
from edge_sft.training.loop import FineTuning, Outcome
from edge_sft.training.merit import balanced_accuracy, merit
from edge_sft.training.network import Network, Parameters
from edge_sft.training.pictures import decode
from edge_sft.training.scoring import Scorer
from edge_sft.training.selection import Choice, best_of, blend, choose
from edge_sft.training.state import Facts, Store, training_key
from edge_sft.training.world import Alone
from edge_sft.training.writing import Job, facts_of, write_checkpoint


class PictureLearner:
    """A site's pictures, and the network."""

    def __init__(self, recipe: Recipe, dataset: Dataset, recipe_text: str, work: Path, progress: Progress) -> None:
        refuse(recipe, dataset)
        self._recipe, self._dataset, self._text, self._work = recipe, dataset, recipe_text, work
        self._key = training_key(recipe, dataset)
        self._device = machine.choose_device(recipe.train.device)
        machine.keep_freed_memory()
        geometry = recipe.image.preprocess()
        torch.manual_seed(recipe.train.seed)
        classifier, self._provenance = build_with_provenance(
            recipe.model, len(recipe.task.labels), (geometry.height, geometry.width)
        )
        self._network = Network(classifier, recipe.train, self._device)
        memory, cache = machine.memory_bytes(), work / "pictures"
        self._pictures = decode(dataset, recipe.task.labels, geometry, cache=cache, memory=memory, progress=progress)
        self._lacks = site_labels.lacks(recipe, dataset)
        self._known = np.unique(self._pictures["train"].labels) if self._lacks.train else None
        self._frozen = self._digest_of_frozen()
        self._start = named.digest(self.weights())

    @property
    def compatible(self) -> Compatible:
        """What must be equal at all sites."""
        geometry = self._recipe.image.preprocess()
        return Compatible(
            {
                "labels": ", ".join(self._recipe.task.labels),
                "good labels": ", ".join(self._recipe.ok_labels),
                "geometry": geometry.model_dump_json(),
                "backbone": str(self._provenance.backbone),
                "frozen stages": f"{self._network.frozen}, {self._frozen}",
                "starting weights": self._start,
            }
        )

    @property
    def parts(self) -> dict[str, Part]:
        """What each weight is."""
        return named.parts_of(self._network.classifier, self._network.learning, heads=("head.",))

    @property
    def base(self) -> Path | None:
        """None: the pre-trained weights come with the backbone's name."""
        return None

    @property
    def samples(self) -> dict[JudgedSplit, int]:
        """How many pictures each split has."""
        return {
            "train": len(self._pictures["train"]),
            "val": len(self._pictures["val"]),
            "test": len(self._pictures["test"]),
        }

    @property
    def fingerprint(self) -> str:
        """The digest of the site's data."""
        return self._dataset.fingerprint

    @property
    def groups(self) -> dict[str, str]:
        """Which part each judged picture is of."""
        return {item.id: item.group for item in self._dataset.items if item.split != "train" and item.group}

    def opening(self) -> Arrays:
        """Nothing: the starting weights are the same without it."""
        return {}

    def weights(self) -> Arrays:
        """Return copies of what learns."""
        return named.copies(self._network.learning)

    def load(self, weights: Arrays) -> None:
        """Overwrite the weights that are named. Raises DataError: unknown names, other shapes, not finite."""
        named.overwrite(self._network.learning, weights)

    def train(
        self, *, round_number: int, rounds: int, steps: int | None, proximal: float, progress: Progress
    ) -> Learnt:
        """Learn for one round; the first begins with the head on frozen features. Raises DataError: no finite loss."""
        count = max(1, self._steps() // rounds) if steps is None else steps
        train = self._pictures["train"]
        with self._reproducible():
            if round_number == 1:
                warm_up(self._recipe, self._network, train, progress, self._known)
            tuning = self._tuning(Store(self._work / "round", self._key), progress)
            loss = tuning.stretch((round_number - 1) * count, count, whole=rounds * count, proximal=proximal)
        return Learnt(len(train), loss, count)

    def judge(self, split: JudgedSplit) -> Judged:
        """Judge on a split by balanced accuracy."""
        pictures = self._pictures[split]
        if not len(pictures):
            return Judged(0, 0.0)
        with self._reproducible():
            logits = Scorer(self._network, pictures.images).logits()
        score = balanced_accuracy(logits, pictures.labels)
        right = float((logits.argmax(1) == pictures.labels).mean())
        numbers = {"balanced_accuracy": score, "accuracy": right}
        return Judged(len(pictures), score, numbers | {"merit": merit(logits, pictures.labels, pictures.weights)})

    def judge_checkpoint(self, checkpoint: Path, split: JudgedSplit) -> Judged:
        """Judge a finished model; see `edge_sft.federated.learner.Learner`."""
        pictures, shared = self._pictures[split], self._network.copy()
        if not len(pictures):
            return Judged(0, 0.0)
        with self._reproducible():
            self._network.put(self._learnt(checkpoint))
            said = Scorer(self._network, pictures.images).logits().argmax(1)
            self._network.put(shared)
        confusion = confusion_matrix(pictures.labels, said, len(self._recipe.task.labels), pictures.weights)
        score = float(recall(confusion))
        return Judged(len(pictures), score, {"balanced_accuracy": score})

    def alone(self, out: Path, progress: Progress) -> CheckpointMeta:
        """Train as `edge-sft train` would; see `edge_sft.federated.learner.Learner`."""
        return fit(self._recipe, self._dataset, out, recipe_text=self._text, progress=progress)

    def checkpoint(self, out: Path, *, personal: bool, progress: Progress) -> CheckpointMeta:
        """Write a checkpoint; see `edge_sft.federated.learner.Learner`."""
        kind, here = "personal" if personal else "global", named.digest(self.weights())
        job = Job(self._recipe, self._dataset, out, self._text, f"{self._key} {kind} {here}")
        done = finished(out, job.key)
        if done is not None:
            return done
        meter = machine.Meter(machine.Usage())
        shared = self._network.copy()
        with self._reproducible():
            outcome = self._fine_tuned(here, progress) if personal else Outcome(shared, shared, shared, Facts())
            choice = self._chosen(shared, outcome, progress, personal=personal)
            facts = facts_of(job, choice, outcome, self._provenance, meter.usage())
            facts |= {**machine.facts(self._device), "processes": 1, "federated": kind, "global_sha256": here}
            facts |= {"lacks": self._lacks.facts} if self._lacks.facts else {}
            meta = write_checkpoint(job, self._network, choice, self._pictures, facts, self._provenance)
            self._network.put(shared)
        return meta

    def _learnt(self, checkpoint: Path) -> Parameters:
        """Return what learns, of a checkpoint. Raises DataError: it is none, or of another network."""
        from safetensors.torch import load_file

        read_meta(checkpoint)
        tensors = load_file(checkpoint / WEIGHTS, device=str(self._device))
        found = {name: tensors[name] for name in self._network.learning if name in tensors}
        if any(name not in found or found[name].shape != here.shape for name, here in self._network.learning.items()):
            raise DataError(str(checkpoint), "is of another network", "Take one of the same recipe.")
        return found

    def _chosen(self, shared: Parameters, outcome: Outcome, progress: Progress, *, personal: bool) -> Choice:
        """Keep on validation the best of global, personal, alone and what lies between."""
        val = self._pictures["val"]
        if not personal:
            return best_of(self._network, {"global": shared}, val)
        own = choose(self._network, outcome, val)
        names = {"head": "global", "averaged": "personal", "raw": "personal, last"}
        own_name = names.get(own.name, own.name)
        if self._lacks.train:
            merits = {names.get(name, name): value for name, value in own.merits.items()}
            return Choice(own_name, own.parameters, own.logits, merits)
        self.alone(self._work / "alone", progress)
        alone = self._learnt(self._work / "alone")
        others = {
            "alone": alone,
            "alone and global": blend(alone, shared, 0.5),
            "alone and personal": blend(alone, own.parameters, 0.5),
        }
        found = best_of(self._network, {own_name: own.parameters, **others}, val)
        merits = {names.get(name, name): value for name, value in own.merits.items()} | found.merits
        return Choice(found.name, found.parameters, found.logits, merits)

    def _fine_tuned(self, start: str, progress: Progress) -> Outcome:
        store = Store(self._work / "personal", f"{self._key} {start}")
        facts, tensors = store.load(self._device) or (Facts(), {})
        outcome = self._tuning(store, progress).run(facts, tensors)
        store.clear()
        return outcome

    def _tuning(self, store: Store, progress: Progress) -> FineTuning:
        return FineTuning(
            self._network,
            self._recipe.train,
            self._recipe.augment,
            self._pictures["train"],
            self._pictures["val"],
            store=store,
            world=Alone(),
            meter=machine.Meter(machine.Usage()),
            progress=progress,
            save_every_s=SAVE_EVERY_S,
            known=self._known,
        )

    def _steps(self) -> int:
        train = self._pictures["train"]
        pixels, gpu = train.images.shape[1] * train.images.shape[2], self._device.type == "cuda"
        return schedule.step_count(self._recipe.train, len(train), pixels, gpu=gpu)

    def _digest_of_frozen(self) -> str:
        learning = self._network.learning
        state = self._network.classifier.state_dict()
        fixed = {name: value for name, value in state.items() if name not in learning and value.is_floating_point()}
        return named.digest(named.copies(fixed))

    @contextmanager
    def _reproducible(self) -> Iterator[None]:
        with deterministic(self._device):
            torch.manual_seed(self._recipe.train.seed)
            yield

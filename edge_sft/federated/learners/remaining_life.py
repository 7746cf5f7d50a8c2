"""Remaining life, learnt together: nets, their standardisation and mostly the normalisation; the interval stays local.

The normalisation of channels is among the weights (`edge_sft.federated.normaliser` makes it before round 1), unless the
recipe's ``[federated] normaliser`` or something else there keeps it local.

Where it is local, the first round is trained on features standardised by each site's own machines; from then on all use
the mean of those numbers. Against a site's own standardisation throughout, the personal nets' error on held-out
training machines of C-MAPSS (MLPs, one seed) fell by 1.1 to 1.9 % on FD002 to FD004 and rose by 1.7 % on FD001.

Net number i of every site leaves out the i-th fold of that site's machines, and the shared net i is the mean of those.
So it has never seen them either, at any site, and a site can judge alone, shared and personal nets alike on all its
training machines, each by nets that do not know it. A site of fewer machines than there are nets leaves the same ones
out of several nets.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.sensors.dataset import SensorDataset
from edge_sft.errors import DataError, UserError
from edge_sft.federated import normaliser
from edge_sft.federated.learner import Arrays, Compatible, Judged, JudgedSplit, Learnt, Part
from edge_sft.federated.learners import weights as named
from edge_sft.federated.learners.kept_features import kept
from edge_sft.federated_section import FederatedSection
from edge_sft.metrics.remaining_life import rmse
from edge_sft.models.sensors import inference
from edge_sft.models.sensors.mlp import Members
from edge_sft.models.sensors.normalise import Normaliser, summary
from edge_sft.models.sensors.regressor import Front, Regressor
from edge_sft.progress import Progress
from edge_sft.sensor_recipe import SensorRecipe
from edge_sft.training.sensors import regression
from edge_sft.training.sensors.features import Table, condition_channels, front_of, grid_rows, table_of
from edge_sft.training.sensors.fit import finished, fit_sensors, reproducible, training_key, write
from edge_sft.training.sensors.members import Schedule, each
from edge_sft.training.sensors.members import train as train_members
from edge_sft.training.sensors.regression import Prepared

# Personal nets: how much of the central recipe's course and rate; by machines held out on C-MAPSS' training engines
PERSONAL_STEPS = 1 / 3
PERSONAL_RATE = 0.05
_STANDARD = ("mean", "scale")  # what makes features comparable: a number each a feature
_NUMBERS = ("rmse", "rmse_raw", "rmse_last", "runs")


class RemainingLife:
    """A site's machines with known lives, and the nets."""

    def __init__(self, recipe: SensorRecipe, dataset: SensorDataset, recipe_text: str, work: Path) -> None:
        if recipe.model.base is not None:
            raise UserError("model.base", "is of no use to nets that are learnt together", "Leave it out.")
        self._recipe, self._dataset, self._text, self._work = recipe, dataset, recipe_text, work
        self._task = regression.rul_of(recipe)
        self._section = recipe.federated or FederatedSection()
        self._own = self._prepared = self._prepare("own")
        self._alone = self._as_alone(self._own)
        self._seen = "", self._own  # the digest of a common normalisation, and what it shows
        self._judged: dict[JudgedSplit, tuple[Prepared, Table]] = {}
        self._normaliser = self._placeholder() if self._section.tells_sensors else {}
        self._members = copy.deepcopy(self._prepared.members)
        self._members.mean.zero_()  # until a first round has told how sites' machines are
        self._members.scale.fill_(1.0)
        self._start = named.digest(self.weights())

    @property
    def compatible(self) -> Compatible:
        """What must be equal at all sites."""
        windowing, body = self._recipe.windowing(), self._prepared.front.body
        return Compatible(
            {
                "task": f"remaining life in {self._task.unit}, capped at {self._task.cap:g}",
                "quantiles": ", ".join(f"{level:g}" for level in self._task.quantiles),
                "channels": ", ".join(windowing.names),
                "window": f"{windowing.length} x {windowing.period_s:g} s",
                "nets": f"{'+'.join(body.kinds)}, {len(self._members.nets)} of width {self._members.width}",
                "starting weights": self._start,
            }
        )

    @property
    def parts(self) -> dict[str, Part]:
        """What each weight is; the head is every net's last layer."""
        last = tuple(f"nets.{number}.{_last(net)}." for number, net in enumerate(self._members.nets))
        found = named.parts_of(self._members, self._parameters(), heads=last)
        norms = {*_STANDARD, *self._normaliser}
        return {name: "norm" if name in norms else part for name, part in found.items()}

    @property
    def base(self) -> Path | None:
        """None: the starting weights are drawn from the recipe's seed."""
        return None

    @property
    def samples(self) -> dict[JudgedSplit, int]:
        """How many windows with a known life there are to learn from, and machines to judge."""
        return {
            "train": len(self._prepared.table),
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
        """Of training machines: count, mean and deviation of each channel in each condition, and of each feature."""
        if not self._normaliser:
            return {}
        values, valid = grid_rows(self._recipe, regression.lived(self._dataset.split("train")))
        most = len(self._normaliser["normalise.mean"])
        found = summary(values, valid, condition_channels(self._recipe), most, self._recipe.train.seed)
        mean, scale = (getattr(self._own.members, name).double().numpy() for name in _STANDARD)
        std = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        return normaliser.told(*found, most) | normaliser.told_features(len(self._own.table), mean, std)

    def weights(self) -> Arrays:
        """Return copies of the nets' weights, their standardisation, and the normalisation if it is shared."""
        return named.copies(self._parameters())

    def load(self, weights: Arrays) -> None:
        """Overwrite the weights that are named. Raises DataError: unknown names, other shapes, not finite."""
        named.overwrite(self._parameters(), weights)
        if any(value.any() for value in self._normaliser.values()):
            self._prepared = self._common()
        else:
            self._prepared = self._own

    def train(
        self, *, round_number: int, rounds: int, steps: int | None, proximal: float, progress: Progress
    ) -> Learnt:
        """Learn for one round: a part of the central course of learning rates. Raises DataError: the loss is none."""
        asked = regression.schedule_of(self._recipe)
        count = max(1, asked.steps // rounds) if steps is None else steps
        schedule = replace(
            asked,
            steps=count,
            begun=(round_number - 1) * count,
            whole=rounds * count,
            proximal=proximal,
            seed=asked.seed + 1000 * round_number,
        )
        if round_number == 1 and not self._normaliser:
            self._members.mean.copy_(self._prepared.members.mean)
            self._members.scale.copy_(self._prepared.members.scale)
        loss = self._fit(self._members, schedule, progress)
        return Learnt(len(self._prepared.table), loss, count)

    def judge(self, split: JudgedSplit) -> Judged:
        """Judge on a split; on training machines each is judged by the nets that have not seen it."""
        if split == "train":
            held = self._prepared.held_out(self._members, self._task.cap).near(self._task.cap)
            error = rmse(held.value, held.truth)
            return Judged(len(held.value), -error, {"rmse_near": error})
        seen, table = self._judged.get(split, (None, None))
        if table is None or seen is not self._prepared:  # each round asks again
            table = table_of(self._prepared.front, self._recipe.windowing(), self._dataset.split(split))
            self._judged[split] = self._prepared, table
        value = each(self._members, table.features).mean(axis=0).clip(0, 1) * self._task.cap
        said: dict[str, Any] = {"run": table.run, "rul": table.life, "value": value, "low": value, "high": value}
        found = regression.numbers(said, self._task.cap, self._task.cap / 2)
        numbers: dict[str, float] = {name: found[name] for name in _NUMBERS if name in found}
        return Judged(int(found.get("windows", 0)), -numbers.get("rmse", 0.0), numbers)

    def judge_checkpoint(self, checkpoint: Path, split: JudgedSplit) -> Judged:
        """Judge a finished model; see `edge_sft.federated.learner.Learner`."""
        module, runs = self._loaded(checkpoint), self._dataset.split(split)
        with reproducible(self._recipe.train.seed):
            said = regression.scored(module, table_of(module.front, self._recipe.windowing(), runs), runs)
        found = regression.numbers(said, self._task.cap, self._task.cap / 2)
        numbers = {name: found[name] for name in _NUMBERS if name in found}
        return Judged(int(found.get("windows", 0)), -numbers.get("rmse", 0.0), numbers)

    def alone(self, out: Path, progress: Progress) -> CheckpointMeta:
        """Train as `edge-sft train` would; see `edge_sft.federated.learner.Learner`."""
        return fit_sensors(self._recipe, self._dataset, out, recipe_text=self._text, progress=progress)

    def checkpoint(self, out: Path, *, personal: bool, progress: Progress) -> CheckpointMeta:
        """Write a checkpoint; see `edge_sft.federated.learner.Learner`."""
        here = named.digest(self.weights())
        kind = "personal" if personal else "global"
        key = f"{training_key(self._recipe, self._dataset)} {kind} {here}"
        done = finished(out, key)
        if done is not None:
            return done
        began = time.monotonic()
        given: tuple[Prepared, Members, dict[str, Any]] = self._prepared, self._members, {"chosen": kind}
        prepared, members, facts = self._personal(progress) if personal else given
        with reproducible(self._recipe.train.seed):
            facts |= {"kept_base": False, "federated": kind, "global_sha256": here}
            trained = regression.conclude(self._recipe, self._dataset, prepared, members, facts=facts)
        told = {**trained.facts, "key": key, "config": trained.config, "wall_s": round(time.monotonic() - began, 1)}
        return write(self._recipe, self._dataset, out, self._text, trained, told)

    def _loaded(self, checkpoint: Path) -> Regressor:
        """Return a checkpoint's nets and what they see. Raises DataError: it is none, or of another kind."""
        module = inference.load(checkpoint)
        if not isinstance(module, Regressor):
            raise DataError(str(checkpoint), "is of another kind of model", "Take one of the same recipe.")
        return module

    def tuned(self, progress: Progress, *, steps: float = PERSONAL_STEPS, rate: float = PERSONAL_RATE) -> Members:
        """Return the nets fine-tuned on the site's own machines, gently; the nets themselves stay."""
        asked = regression.schedule_of(self._recipe)
        schedule = replace(
            asked,
            steps=max(1, round(asked.steps * steps)),
            learning_rate=asked.learning_rate * rate,
            seed=asked.seed + 1_000_000,
        )
        members = copy.deepcopy(self._members)
        self._fit(members, schedule, progress)
        return members

    def candidates(self, alone: Members, tuned: Members) -> dict[str, Members]:
        """Return what a site may keep: each for itself, and the mean of shared and personal (nets side by side)."""
        both = self._joined([self._members, tuned])
        return {"alone": alone, "global": self._members, "personal": tuned, "global + personal": both}

    def held_out_error(self, members: Members) -> float:
        """Return the root mean square error on training machines, each judged by nets that have not seen it."""
        return self._error(self._prepared, members)

    def _personal(self, progress: Progress) -> tuple[Prepared, Members, dict[str, Any]]:
        self.alone(self._work / "alone", progress)
        found = self.candidates(self._loaded(self._work / "alone").members, self.tuned(progress))
        seen = {name: self._alone if name == "alone" else self._prepared for name in found}
        errors = {name: round(self._error(seen[name], members), 6) for name, members in found.items()}
        chosen = min(errors, key=lambda name: errors[name])
        return seen[chosen], found[chosen], {"chosen": chosen, "candidates": errors}

    def _error(self, prepared: Prepared, members: Members) -> float:
        held = prepared.held_out(members, self._task.cap).near(self._task.cap)
        return rmse(held.value, held.truth)

    def _placeholder(self) -> dict[str, Tensor]:
        """Return the normalisation's room among the starting weights: the same at every site."""
        conditions = condition_channels(self._recipe)
        most, channels = self._recipe.normalise.clusters if conditions else 1, len(self._recipe.windowing().names)
        shapes = ((most, channels), (most, channels), (most, len(conditions)), (len(conditions),))
        return {name: torch.zeros(shape) for name, shape in zip(normaliser.NAMES, shapes, strict=True)}

    def _common(self) -> Prepared:
        """Return all features under the normalisation that came; computed when another one comes."""
        key = named.digest(named.copies(self._normaliser))
        if key != self._seen[0]:
            mean, scale, centres, weight = (value.numpy() for value in self._normaliser.values())
            made = Normaliser.given(mean, scale, centres, weight, condition_channels(self._recipe))
            front = front_of(self._recipe, made, regression.statistics(self._recipe.windowing().length))
            self._seen = key, self._prepare(f"common {key}", front)
        return self._seen[1]

    def _prepare(self, title: str, front: Front | None = None) -> Prepared:
        path = self._work / f"features-{title.partition(' ')[0]}.npz"
        key = f"{training_key(self._recipe, self._dataset)} {title}"
        with reproducible(self._recipe.train.seed):
            keep = partial(kept, path, key)
            return regression.prepare(self._recipe, self._dataset, front, keep, every_net=True)

    def _as_alone(self, prepared: Prepared) -> Prepared:
        """Return the same for the nets that the site learns alone: of fewer machines than folds there are fewer."""
        asked = self._recipe.train
        return replace(
            prepared, left_out=regression.folds(prepared.table.group, asked.folds, asked.members, asked.seed)
        )

    def _joined(self, sources: Sequence[Members]) -> Members:
        """Return all their nets, kind by kind as a checkpoint has them; the mean of all is what they say."""
        many = len(self._prepared.left_out)
        kinds = range(len(self._members.nets) // many)
        nets: list[nn.Module] = [
            copy.deepcopy(net) for kind in kinds for source in sources for net in source.nets[kind * many :][:many]
        ]
        return self._members.with_nets(nets)

    def _fit(self, members: Members, schedule: Schedule, progress: Progress) -> float:
        with reproducible(schedule.seed):
            return train_members(members, self._prepared.material, schedule, progress)

    def _parameters(self) -> dict[str, Tensor]:
        standard = {name: getattr(self._members, name) for name in _STANDARD}
        return {**dict(self._members.named_parameters()), **standard, **self._normaliser}


def _last(net: nn.Module) -> str:
    """Return the name of a net's last linear layer."""
    names: list[str] = [name for name, layer in net.named_modules() if isinstance(layer, nn.Linear)]
    return names[-1]

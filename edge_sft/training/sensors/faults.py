"""Fault classification's training: features once, views chosen by group cross-validation, small nets, temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sft.checkpoint import Scores
from edge_sft.data.dataset import SplitName
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.errors import DataError, UserError
from edge_sft.metrics import plant
from edge_sft.models.sensors.classifier import STATISTICS, FaultClassifier, Fronts, Heads
from edge_sft.models.sensors.normalise import Normaliser
from edge_sft.models.sensors.regressor import lifelong
from edge_sft.models.sensors.views import MIN_LENGTH, NAMES
from edge_sft.policy import Policy
from edge_sft.preprocess.validity import Validity
from edge_sft.progress import Progress
from edge_sft.recipe import PolicySection
from edge_sft.sensor_recipe import FaultTask, SensorRecipe
from edge_sft.task import Task, window_classification
from edge_sft.training.sensors.choosing import Chosen, choose_views, joined
from edge_sft.training.sensors.examples import Examples, examples_of
from edge_sft.training.sensors.heads import Floats, Training, balanced_accuracy, fit_heads, votes
from edge_sft.training.sensors.trained import Trained
from edge_sft.training.sensors.windows import Laid

_STATISTICS = ("last", "mean", "std", "slope")
_STEPS = 100  # 200 name no more machines right that were left out
_RATE = 3e-3
_FEW = 10  # machines a label, below which a label is hardly known
_ROWS = 200_000  # that the normalisation of slow signals is fitted to
_JUDGED: tuple[SplitName, ...] = ("val", "test")


def train(recipe: SensorRecipe, dataset: SensorDataset, progress: Progress) -> Trained:
    """Make a fault classifier.

    Args:
        recipe: ``model.architecture`` is ``spectral`` (vibration), ``mlp`` (slow signals) or ``auto``: whichever names
            machines it did not hear better. ``model.orders`` are the bearing's rates.
        dataset: Runs with labels; windows without one are not learnt from.
        progress: Told run by run.

    Returns:
        Scores of the validation and test runs by window; ``metrics`` also by recording's vote, and what the
        cross-validation on the training machines says.

    Raises:
        UserError: A recipe that does not fit the task.
        DataError: Labels of which no training run has a window.
    """
    known, module, chosen, config = learn(
        recipe, dataset.split("train"), progress, root=str(dataset.root), partial=dataset.partial
    )
    return conclude(recipe, dataset, known, module, chosen, config, progress)


def conclude(
    recipe: SensorRecipe,
    dataset: SensorDataset,
    known: Examples,
    module: FaultClassifier,
    chosen: Chosen,
    config: dict[str, Any],
    progress: Progress,
) -> Trained:
    """Score every split and put the finished model together; the arguments are what `learn` returns."""
    task = task_of(recipe)
    judged = [Judged.of(module, recipe, split, dataset.split(split), progress) for split in _JUDGED]
    policy, notes = _policy(recipe, task, judged[0], known, chosen)
    scores: dict[str, NDArray[Any]] = {}
    metrics = {"cross_validation": _cross_validated(known, chosen)} if chosen.heard.any() else {}
    for one in judged:
        if len(one.seen):
            scores |= one.scores()
            metrics[one.split] = numbers(one.probabilities, one.seen)
    facts = {"views": config["views"], "tried": chosen.tried, "notes": [*notes, *_few(known, task)]}
    return Trained(
        module=module,
        task=task,
        policy=policy,
        architecture=config["architecture"],
        config=config,
        metrics=metrics,
        scores=scores,
        facts=facts,
    )


def learn(
    recipe: SensorRecipe, runs: tuple[Run, ...], progress: Progress, *, root: str, partial: bool = False
) -> tuple[Examples, FaultClassifier, Chosen, dict[str, Any]]:
    """Choose the views and fit the nets.

    Returns:
        The training windows, all views of them; the classifier in eval mode; the choice; its config.

    Raises:
        UserError: A recipe that does not fit the task.
        DataError: Labels of which no run has a window, unless the data are ``partial``; ``root`` says where.
    """
    heard = hear(recipe, runs, progress, root=root, partial=partial)
    known, how = heard.known, training_of(recipe)
    progress.start("choosing views, fitting nets", 2)
    chosen = choose_views(known, heard.fronts.names, how, recipe.train.folds)
    tried = chosen.tried.get(joined(heard.fronts.names, chosen.views))
    progress.advance(note="" if tried is None else f"machines left out {tried:.3f}")
    module, config = heard.assembled(recipe, chosen, fit_heads(known.views(chosen.views), how))
    progress.advance()
    return known, module, chosen, config


@dataclass(frozen=True)
class Heard:
    """The training runs as all views see them: what looks at windows, its config, the labelled windows."""

    fronts: Fronts
    config: dict[str, Any]
    known: Examples

    def assembled(
        self, recipe: SensorRecipe, chosen: Chosen, heads: list[Heads]
    ) -> tuple[FaultClassifier, dict[str, Any]]:
        """Return the classifier of the chosen views' nets, in eval mode, and its config."""
        return _assembled(recipe, self.fronts, self.config, chosen, heads)


def hear(recipe: SensorRecipe, runs: tuple[Run, ...], progress: Progress, *, root: str, partial: bool = False) -> Heard:
    """Compute all views of the training windows. Raises what `learn` raises."""
    task, names = task_of(recipe), views_of(recipe)
    fronts, config = fronts_of(recipe, runs, names)
    drop, seed = recipe.train.channel_drop, recipe.train.seed
    title = "listening to the training machines"
    heard = examples_of(fronts, recipe.windowing(), runs, progress, title=title, channel_drop=drop, seed=seed)
    known = heard.take(heard.label >= 0)
    _check_labels(known, task, root, partial=partial)
    return Heard(fronts, config, known)


def _assembled(
    recipe: SensorRecipe, fronts: Fronts, config: dict[str, Any], chosen: Chosen, heads: list[Heads]
) -> tuple[FaultClassifier, dict[str, Any]]:
    views = tuple(fronts.names[place] for place in chosen.views)
    config = {**config, "views": list(views), "architecture": "mlp" if views == (STATISTICS,) else "spectral"}
    kept = Fronts(recipe.windowing(), views, config)
    kept.load_state_dict({key: value for key, value in fronts.state_dict().items() if key in kept.state_dict()})
    module = FaultClassifier(kept, heads)
    module.temperature.fill_(chosen.temperature)
    return module.eval(), config


def task_of(recipe: SensorRecipe) -> Task:
    """Return the recipe's task. Raises UserError when it asks for what a fault classifier cannot be."""
    if recipe.model.architecture not in ("auto", "spectral", "mlp"):
        fact = f"'{recipe.model.architecture}' is no fault classifier"
        raise UserError("model.architecture", fact, "Choose one of: auto, spectral, mlp.")
    if recipe.model.base is not None:
        raise UserError("model.base", "is not used by fault classifiers", "Leave it out, and add the base's runs.")
    if not isinstance(recipe.task, FaultTask):
        raise UserError("task.kind", f"is '{recipe.task.kind}'", 'Faults are told apart by "classification".')
    windowing = recipe.windowing()
    return window_classification(recipe.task.labels, recipe.task.ok, windowing.length, len(windowing.names))


def views_of(recipe: SensorRecipe) -> tuple[str, ...]:
    """Return the views that are tried: spectra where the windows allow them, statistics where they are asked for."""
    architecture = recipe.model.architecture
    if architecture == "spectral":
        return NAMES
    if architecture == "mlp" or recipe.window.length < MIN_LENGTH:
        return (STATISTICS,)
    return (*NAMES, STATISTICS)


def training_of(recipe: SensorRecipe) -> Training:
    """Return how the nets are fitted."""
    given = recipe.train
    assert isinstance(recipe.task, FaultTask)
    return Training(
        labels=len(recipe.task.labels),
        width=recipe.model.width,
        members=given.members,
        dropout=recipe.model.dropout,
        steps=_STEPS if given.steps == "auto" else given.steps,
        batch_size=given.batch_size,
        learning_rate=_RATE if given.learning_rate == "auto" else given.learning_rate,
        weight_decay=given.weight_decay,
        seed=given.seed,
    )


def fronts_of(recipe: SensorRecipe, runs: tuple[Run, ...], names: tuple[str, ...]) -> tuple[Fronts, dict[str, Any]]:
    """Return what looks at windows, in eval mode and fitted to the training runs, and the config it is built from."""
    windowing = recipe.windowing()
    config: dict[str, Any] = {
        "architecture": "spectral",
        "orders": list(recipe.model.orders),
        "width": recipe.model.width,
        "members": recipe.train.members,
        "dropout": recipe.model.dropout,
    }
    normaliser = None
    if STATISTICS in names:
        normaliser = _normaliser(recipe, runs)
        config |= {"architecture": "mlp", "normalise": normaliser.config, "statistics": list(_STATISTICS)}
    fronts = Fronts(windowing, names, config).eval()
    if normaliser is not None and fronts.normalise is not None:
        fronts.normalise.load_state_dict(normaliser.state_dict())
    _set_usual_speed(fronts, runs, Validity(recipe.windowing()))
    return fronts, config


def _set_usual_speed(fronts: Fronts, runs: tuple[Run, ...], validity: Validity) -> None:
    """Where a window lacks its speed, the training machines' mean stands in."""
    eyes = fronts.eyes
    if eyes is None or eyes.layout.speed is None or not runs:
        return
    speeds = np.abs(np.concatenate([validity.in_units(run.values)[:, eyes.layout.speed] for run in runs]))
    if np.isfinite(speeds).any():
        eyes.usual.fill_(float(np.nanmean(speeds)) * eyes.spectrum.n * eyes.layout.period_s / 60.0)


def _normaliser(recipe: SensorRecipe, runs: tuple[Run, ...]) -> Normaliser:
    windowing = recipe.windowing()
    share = max(_ROWS // max(len(runs), 1), 1)
    values, valid = [], []
    for run in runs:
        laid = Laid(windowing, run)
        rows = len(laid) * windowing.length
        window, step = np.divmod(np.arange(0, rows, max(rows // share, 1)), windowing.length)
        held, place = np.unique(window, return_inverse=True)
        windows = laid.take(held)
        values.append(windows.values[place, step])
        valid.append(windows.valid[place, step])
    names = [channel.name for channel in windowing.channels]
    conditions = tuple(names.index(name) for name in recipe.data.conditions)
    clusters = recipe.normalise.clusters if recipe.normalise.by == "condition" else 1
    if not values:
        return Normaliser(len(windowing.names))
    return Normaliser.fit(
        np.concatenate(values), np.concatenate(valid), conditions, clusters, lifelong(windowing), recipe.train.seed
    )


@dataclass(frozen=True)
class Judged:
    """What the classifier says of one split's windows: probabilities float64 [n,K]."""

    split: SplitName
    runs: tuple[Run, ...]
    seen: Examples
    probabilities: Floats

    @classmethod
    def of(
        cls,
        module: FaultClassifier,
        recipe: SensorRecipe,
        split: SplitName,
        runs: tuple[Run, ...],
        progress: Progress,
    ) -> Judged:
        """Ask it."""
        seen = examples_of(module.fronts, recipe.windowing(), runs, progress, title=f"judging {split}")
        with torch.inference_mode():
            said = module.probabilities(seen.features).double().numpy()
        return cls(split, runs, seen, said)

    def scores(self) -> dict[str, NDArray[Any]]:
        """Return what reports and gates need, by window."""
        ids = np.array([run.id for run in self.runs])
        groups = np.array([run.group for run in self.runs])
        return {
            f"{self.split}/run": ids[self.seen.run],
            f"{self.split}/group": groups[self.seen.run],
            f"{self.split}/label": self.seen.label,
            f"{self.split}/probabilities": self.probabilities.astype(np.float32),
        }


def numbers(probabilities: Floats, seen: Examples) -> dict[str, float]:
    """Return balanced accuracy by window and by recording's vote (machines of a label weigh alike), and how many."""
    known = seen.label >= 0
    said, label, run = probabilities[known], seen.label[known], seen.run[known]
    voted, owner, which = votes(said, label, run)
    groups = seen.group[known][[int(np.flatnonzero(run == one)[0]) for one in which]] if len(which) else owner
    found = {"windows": float(len(label)), "recordings": float(len(owner))}
    if len(label):
        found["balanced_accuracy"] = balanced_accuracy(said, label, seen.group[known])
        found["vote_balanced_accuracy"] = balanced_accuracy(voted, owner, groups)
    return {key: round(value, 6) for key, value in found.items()}


def _cross_validated(known: Examples, chosen: Chosen) -> dict[str, float]:
    heard = known.take(chosen.heard)
    return numbers(chosen.probabilities[chosen.heard], heard)


def _policy(
    recipe: SensorRecipe, task: Task, val: Judged, known: Examples, chosen: Chosen
) -> tuple[Policy, tuple[str, ...]]:
    """Choose the threshold of least cost on validation, or on the machines that cross-validation left out."""
    section = PolicySection(
        escape_cost=recipe.policy.escape_cost,
        overkill_cost=recipe.policy.overkill_cost,
        deadline_ms=recipe.policy.deadline_ms,
    )
    seen, said = val.seen, val.probabilities
    if not (seen.label >= 0).any():
        seen, said = known.take(chosen.heard), chosen.probabilities[chosen.heard] ** (1 / chosen.temperature)
        said = said / np.maximum(said.sum(-1, keepdims=True), 1e-12)
    labelled = seen.label >= 0
    scores = Scores(
        ids=[str(run) for run in seen.run[labelled]],
        labels=seen.label[labelled],
        probabilities=said[labelled].astype(np.float32),
        weights=np.ones(int(labelled.sum()), dtype=np.float32),
    )
    choice = plant.choose(scores, task, section)
    return choice.policy, choice.notes


def _check_labels(known: Examples, task: Task, root: str, *, partial: bool) -> None:
    missing = [label for number, label in enumerate(task.labels) if not (known.label == number).any()]
    if partial and len(missing) <= len(task.labels) - 2:
        return
    if missing:
        raise DataError(
            root,
            f"has no training window of {', '.join(repr(label) for label in missing)}",
            "Take the label out of task.labels, name other groups in data.split, or look at `edge-sft check`.",
        )


def _few(known: Examples, task: Task) -> list[str]:
    """Say which labels rest on few machines: recordings of the same bearing are one example, however long."""
    counts = {label: len(np.unique(known.group[known.label == number])) for number, label in enumerate(task.labels)}
    few = [f"{label} ({count})" for label, count in counts.items() if count < _FEW]
    if not few:
        return []
    return [
        f"Few machines were heard of {', '.join(few)}; below about {_FEW} a label's numbers change with every machine."
    ]

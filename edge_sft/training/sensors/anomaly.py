"""Anomaly detection's training: choose the method on the training machines, say what it would have done on the others.

No memory of normal behaviour is made here for others to use: a machine's is its own and is made by `edge-sft
commission` on it. What is shared is which method, its windows, its rule for the threshold, and where the encoder is
taken what it sees in a channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edge_sft.data.dataset import SplitName
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.errors import DataError, UserError
from edge_sft.models.sensors.anomaly import METHODS, STATISTICS
from edge_sft.models.sensors.registry import build
from edge_sft.policy import AnomalyPolicy
from edge_sft.progress import Progress
from edge_sft.sensor_recipe import SensorRecipe
from edge_sft.slots.commissioning import Healthy, commission
from edge_sft.slots.memories import rows_for, spread
from edge_sft.task import Task, window_anomaly
from edge_sft.training.sensors.anomaly_encoder import healthy_stretches, learn
from edge_sft.training.sensors.commissioned import Judged, asker, judge_run, numbers, scores_of
from edge_sft.training.sensors.trained import Trained
from edge_sft.training.sensors.windows import Laid, affordable

ENCODER = "encoder"
_RULES = {"bank": "neighbours", "t2q": "components", "encoder": "core-set"}
# Windows of each training run that the bundle's default memory is made of: enough for quantization ranges and golden
# answers; no machine is judged by it.
_DEFAULT_WINDOWS = 2_000
_DEFAULT_RUNS = 50  # of more runs fewer windows each
# Runs that the choice between the methods is made on; more take minutes and change nothing.
_CHOICE_RUNS = 20
# More channels than this drown the one that goes wrong in a plain mean; see `BankAnomaly`.
_MANY_CHANNELS = 16
# The encoder's memory takes features apart by a square matrix: 16 MB at most, and a second of a device to invert.
_MOST_FEATURES = 2048
_ENCODER_FOLDS = 3
# Of the evidence, what is the encoder's beside level, spread and slope: by their number they would drown a level.
SHAPE = 0.5
_WORTH = 0.01  # of the area under the curve, by which another method must rank better than the bank


def train(recipe: SensorRecipe, dataset: SensorDataset, progress: Progress) -> Trained:
    """Make an anomaly detector.

    Args:
        recipe: ``model.architecture`` is ``bank``, ``t2q``, ``encoder`` or ``auto``: whichever ranks the training
            machines' labelled rows better, each machine by an encoder that never heard it; the bank where nothing is
            labelled, and where the others are not better by more than chance would make them.
        dataset: Runs; what is labelled abnormal is never taken for healthy.
        progress: Told run by run.

    Returns:
        A network, a policy without a threshold, each run judged by its own beginning.

    Raises:
        UserError: A recipe that does not fit the task.
        DataError: No training run is long enough to be a healthy one.
    """
    check(recipe)
    name, tried = _choose(recipe, dataset, progress)
    encoder = _encoder(recipe, dataset.split("train"), progress) if name == ENCODER else None
    return conclude(recipe, dataset, name, encoder, {"tried": tried}, progress)


def conclude(
    recipe: SensorRecipe,
    dataset: SensorDataset,
    name: str,
    encoder: nn.Module | None,
    told: dict[str, Any],
    progress: Progress,
) -> Trained:
    """Judge every split's runs, each by its own beginning, and put the finished model together.

    Args:
        recipe: What was trained.
        dataset: The runs, with their splits.
        name: The method.
        encoder: Its learnt net, where it has one.
        told: What ``training`` in checkpoint.json shall say besides.
        progress: Told run by run.
    """
    task, module, policy, config = assembled = assemble(
        recipe, name, encoder, usual=usual_shares(recipe, dataset.split("train"))
    )
    judged = {split: judge(recipe, assembled, dataset.split(split), split, progress) for split in _SPLITS}
    scores: dict[str, NDArray[Any]] = {}
    for split, runs in judged.items():
        if split != "train":
            scores |= scores_of(split, runs)
    scores |= {f"default/{key}": value for key, value in _defaults(recipe, task, module, policy, dataset).items()}
    facts: dict[str, Any] = {"chosen": name, **told, "not_commissioned": _reasons(judged)}
    return Trained(
        module=module,
        task=task,
        policy=policy,
        architecture=name,
        config=config,
        metrics={split: numbers(runs) for split, runs in judged.items() if runs},
        scores=scores,
        facts=facts,
    )


_SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
Assembled = tuple[Task, nn.Module, AnomalyPolicy, dict[str, Any]]


def usual_shares(recipe: SensorRecipe, runs: Sequence[Run]) -> tuple[float, ...]:
    """Return which share of its steps each channel usually has a valid value for, beside the fullest one."""
    windowing = recipe.windowing()
    shares = []
    for run in runs:
        laid = Laid(windowing, run)
        some = laid.take(spread(len(laid), affordable(windowing, _DEFAULT_WINDOWS)))
        counts = some.valid.sum(axis=1, dtype=np.float64)
        shares.append(counts / np.maximum(counts.max(axis=1, keepdims=True), 1.0))
    if not any(map(len, shares)):
        return (1.0,) * len(windowing.names)
    usual = np.median(np.concatenate(shares), axis=0)
    return tuple(float(one) for one in np.clip(usual, 1.0 / windowing.length, 1.0))


def assemble(
    recipe: SensorRecipe,
    name: str,
    encoder: nn.Module | None = None,
    shape: float = SHAPE,
    usual: tuple[float, ...] | None = None,
) -> Assembled:
    """Return task, module (eval), default policy and config of one of the methods with a recipe's settings.

    ``encoder`` is the learnt net of the method of that name, ``shape`` its share of the evidence; the others have
    nothing learnt in them. ``usual`` is what `usual_shares` found.
    """
    windowing = recipe.windowing()
    each = STATISTICS + (recipe.model.embedding if name == ENCODER else 0)
    width = each * len(windowing.names)
    asked = recipe.policy.commissioning
    least = max(asked.min_windows, recipe.model.neighbours + 1)
    rule = asked.model_copy(update={"method": _RULES[name], "min_windows": least})
    task = window_anomaly(
        windowing.length, len(windowing.names), (rows_for(rule.method, width, recipe.model.bank_size), width)
    )
    sharp = len(windowing.names) > _MANY_CHANNELS
    config: dict[str, Any] = {"architecture": name, "neighbours": recipe.model.neighbours, "clip": rule.clip}
    config["sharp"] = sharp
    if usual is not None:
        config["usual"] = list(usual)
    if name == ENCODER:
        config |= {"embedding": recipe.model.embedding, "shape": shape}
    module = build(task, windowing, config)
    if encoder is not None:
        module.get_submodule("statistics.encoder").load_state_dict(encoder.state_dict())
    policy = AnomalyPolicy(alarm=recipe.policy.alarm, commissioning=rule, deadline_ms=recipe.policy.deadline_ms)
    return task, module, policy, config


def check(recipe: SensorRecipe) -> None:
    """Raise UserError where a recipe asks for what an anomaly detector cannot be."""
    architecture = recipe.model.architecture
    if architecture != "auto" and architecture not in METHODS:
        known = ", ".join(("auto", *METHODS))
        raise UserError("model.architecture", f"'{architecture}' is no anomaly detector", f"Choose one of: {known}.")
    if recipe.window.age:
        fact = "makes every day later than the healthy run an anomaly"
        raise UserError("window.age", fact, 'Leave it out for task.kind = "anomaly".')
    if recipe.normalise.by != "global":
        fact = "is not how an anomaly's memory works: it holds an example of each operating condition"
        raise UserError("normalise.by", fact, "Leave it out and commission over all conditions.")
    if architecture == ENCODER and _features(recipe) > _MOST_FEATURES:
        fact = f"gives {_features(recipe)} features of {len(recipe.data.channels)} channels, at most {_MOST_FEATURES}"
        raise UserError("model.embedding", fact, 'Make it smaller, or take architecture = "bank".')
    if recipe.model.neighbours > recipe.model.bank_size:
        raise UserError("model.neighbours", "are more than model.bank_size has examples", "Make the bank larger.")
    if recipe.model.base is not None:
        raise UserError("model.base", "is of no use: nothing is learnt from other machines", "Leave it out.")


def _choose(recipe: SensorRecipe, dataset: SensorDataset, progress: Progress) -> tuple[str, dict[str, float]]:
    """Return the method and what each got on the training machines (mean AUROC over runs)."""
    if recipe.model.architecture != "auto":
        return recipe.model.architecture, {}
    runs = [run for run in dataset.split("train") if run.labels is not None and (run.labels == 1).any()]
    if not runs:
        return "bank", {}
    chosen = [runs[index] for index in spread(len(runs), _CHOICE_RUNS)]
    judged = {
        name: judge(recipe, assemble(recipe, name), chosen, f"train, {name}", progress)
        for name in METHODS
        if name != ENCODER
    }
    unheard = _by_unheard(recipe, dataset.split("train"), chosen, progress)
    found = {name: numbers(ones) for name, ones in (judged | ({ENCODER: unheard} if unheard else {})).items()}
    tried = {name: values["auroc"] for name, values in found.items() if "auroc" in values}
    best = max(METHODS, key=lambda name: tried.get(name, 0.0))
    return (best if tried.get(best, 0.0) > tried.get("bank", 0.0) + _WORTH else "bank"), tried


def _by_unheard(recipe: SensorRecipe, train: Sequence[Run], chosen: Sequence[Run], progress: Progress) -> list[Judged]:
    """Judge each chosen run by an encoder that was trained without its group; none where there is one group only."""
    groups = sorted({run.group for run in train})
    folds = min(recipe.train.folds, _ENCODER_FOLDS, len(groups))
    if folds < 2 or _features(recipe) > _MOST_FEATURES:
        return []
    judged: list[Judged] = []
    for fold in range(folds):
        out = set(groups[fold::folds])
        left = [run for run in chosen if run.group in out]
        if left:
            encoder = _encoder(recipe, [run for run in train if run.group not in out], progress)
            judged += judge(recipe, assemble(recipe, ENCODER, encoder), left, f"train, {ENCODER}", progress)
    return judged


def _encoder(recipe: SensorRecipe, runs: Sequence[Run], progress: Progress) -> nn.Module:
    return learn(recipe, healthy_stretches(recipe, runs), progress)


def _features(recipe: SensorRecipe) -> int:
    return (STATISTICS + recipe.model.embedding) * len(recipe.windowing().names)


def judge(
    recipe: SensorRecipe, assembled: Assembled, runs: Sequence[Run], title: str, progress: Progress
) -> list[Judged]:
    """Return what a method says of each run that is long enough, judged by its own beginning."""
    task, module, policy, _ = assembled
    infer = asker(module, task)
    progress.start(f"judging {title}", len(runs))
    judged = []
    for run in runs:
        one = judge_run(infer, task, recipe.windowing(), policy, run, progress=progress)
        progress.advance(note=run.id)
        if len(one.time):
            judged.append(one)
    return judged


def _defaults(
    recipe: SensorRecipe, task: Task, module: nn.Module, policy: AnomalyPolicy, dataset: SensorDataset
) -> dict[str, NDArray[np.float32]]:
    """Return local inputs made of all training machines: what golden answers and quantization ranges are taken with."""
    parts, windowing, runs = [], recipe.windowing(), dataset.split("train")
    each = max(1, min(_DEFAULT_WINDOWS, affordable(windowing, _DEFAULT_RUNS * _DEFAULT_WINDOWS) // len(runs)))
    for run in runs:
        laid = Laid(windowing, run)
        healthy = np.arange(len(laid)) if laid.label is None else np.flatnonzero(laid.label != 1)
        windows = laid.take(healthy[spread(len(healthy), each)])
        parts.append(Healthy(windows.values, windows.valid, windows.end))
    pooled = Healthy(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.valid for part in parts]),
        # one after the other, however the clocks of the machines stood to each other
        np.arange(sum(map(len, parts)), dtype=np.float64) * recipe.window.hop * recipe.window.period_s,
    )
    if len(pooled) == 0:
        raise DataError(str(dataset.root), "gives no window to train on", "Look at what `edge-sft check` says.")
    words = {"model_digest": "0" * 64, "asset": "", "created_at": "", "source": "the training runs"}
    rule, infer = policy.commissioning, asker(module, task)
    made = commission(infer, task, windowing, pooled, rule, **words, alarm=policy.alarm)
    return made.inputs


def _reasons(judged: dict[SplitName, list[Judged]]) -> list[str]:
    return [f"{one.run}: {one.why}" for runs in judged.values() for one in runs if one.why is not None][:20]

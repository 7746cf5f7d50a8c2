"""Remaining useful life: streaming features, a few nets each of which leaves out some machines, honest intervals.

Every net is trained without one fold of the training machines; what it says about them is how well the recipe works
on machines it has not seen, and the interval is made of those errors. The model is the mean of all the nets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sft.data.dataset import SplitName
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.errors import BugError, DataError, UserError
from edge_sft.metrics.remaining_life import coverage, rmse
from edge_sft.models.sensors.mlp import Members
from edge_sft.models.sensors.regressor import KINDS, Front, Interval, Regressor, lifelong
from edge_sft.policy import RegressionPolicy
from edge_sft.progress import Progress
from edge_sft.sensor_recipe import RulTask, SensorRecipe
from edge_sft.task import window_regression
from edge_sft.training.sensors import conformal
from edge_sft.training.sensors.features import Table, fit_front, missing, table_of
from edge_sft.training.sensors.members import Material, Schedule, each, standardise
from edge_sft.training.sensors.members import train as train_members
from edge_sft.training.sensors.trained import Trained

AUTO_STEPS = 1500
_RATE = 0.01
# Last value, short and slow averages, and over the whole window level, spread and trend: chosen by group
# cross-validation on the training engines of C-MAPSS; the window's length mattered most (80 cycles against 40).
STATISTICS = ("last", "mean:5", "ema:10", "mean:{length}", "std:{length}", "slope:{length}")
_JUDGED: tuple[SplitName, ...] = ("val", "test")
NEAR = 1.2  # caps to go, from which on rows are judged: further away the cap itself makes them right
_REPLAY_ROWS = 4096  # what a checkpoint keeps for later fine-tuning: a few MB
_REPLAY_NUMBERS = 2_000_000


@dataclass(frozen=True)
class Held:
    """What the nets say of rows of machines they have not seen, and what was true, both in [0, cap]; arrays [n].

    ``life`` is the truth before it was cut to the cap.
    """

    value: NDArray[np.float64]
    truth: NDArray[np.float64]
    group: NDArray[np.int64]
    life: NDArray[np.float64]

    def near(self, cap: float) -> Held:
        """Return the rows with at most ``NEAR`` caps to go, or all where there are none."""
        chosen = self.life <= NEAR * cap
        if not chosen.any():
            return self
        return Held(self.value[chosen], self.truth[chosen], self.group[chosen], self.life[chosen])


@dataclass(frozen=True)
class Prepared:
    """What nets are trained on, and the nets before their first step.

    Attributes:
        front: The fitted normalisation and what looks at windows.
        members: Untrained nets behind the standardisation.
        table: The training windows whose remaining life is known.
        left_out: For each net of one kind the groups that it never sees.
        material: What the nets are given.
    """

    front: Front
    members: Members
    table: Table
    left_out: list[NDArray[np.int64]]
    material: Material

    def held_out(self, members: Members, cap: float) -> Held:
        """Return what nets say of machines they have not seen; blocks of nets are as ``left_out``."""
        return held_out(members, self.table, self.left_out * (len(members.nets) // len(self.left_out)), cap)


def train(recipe: SensorRecipe, dataset: SensorDataset, progress: Progress) -> Trained:
    """Train remaining useful life from a sensor recipe and runs; see `edge_sft.training.sensors.fit`.

    Raises:
        DataError: Fewer than two machines with a known life, or a loss that is no number.
        UserError: An architecture that does not do this, a base that does not fit.
    """
    asked = recipe.model.architecture
    if asked != "auto" and asked not in KINDS:
        remedy = f"Choose one of: auto, {', '.join(KINDS)}."
        raise UserError(f"model.architecture {asked}", "does not estimate a life", remedy)
    if recipe.model.base is not None:
        from edge_sft.training.sensors.finetune import from_base

        return from_base(recipe, dataset, progress)
    prepared = prepare(recipe, dataset)
    train_members(prepared.members, prepared.material, schedule_of(recipe), progress)
    return conclude(recipe, dataset, prepared, prepared.members, facts={"kept_base": False})


def prepare(
    recipe: SensorRecipe,
    dataset: SensorDataset,
    front: Front | None = None,
    keep: Callable[[Callable[[], Table]], Table] = lambda make: make(),
    *,
    every_net: bool = False,
) -> Prepared:
    """Compute the features and make the untrained nets.

    Args:
        recipe: What shall be trained.
        dataset: The runs, with their splits.
        front: The normalisation and what looks at windows; None = fitted to these runs.
        keep: Takes what computes the features of all windows, and may have kept them from the last time.
        every_net: See `folds`.

    Raises:
        DataError: Too few machines.
    """
    task = rul_of(recipe)
    runs = lived(dataset.split("train"))
    windowing = recipe.windowing()
    front = front or fit_front(recipe, runs, statistics(windowing.length))
    table = known(keep(lambda: table_of(front, windowing, runs)))
    check_groups(dataset, table)
    kinds = front.body.kinds
    one_kind = folds(table.group, recipe.train.folds, recipe.train.members, recipe.train.seed, every_net=every_net)
    torch.manual_seed(recipe.train.seed)
    members = Members(front.body.features, front.body.nets(recipe.model.width, len(one_kind)))
    standardise(members, table.features, front.body.ready())
    target = np.clip(table.life / task.cap, 0, 1).astype(np.float32)
    material = Material(
        features=torch.from_numpy(table.features),
        target=torch.from_numpy(target),
        rows=tuple(np.flatnonzero(~np.isin(table.group, out)) for out in one_kind * len(kinds)),
        missing=missing(front),
        channel_of=front.body.channel_of,
        always=lifelong(windowing),
    )
    return Prepared(front, members, table, one_kind, material)


def conclude(
    recipe: SensorRecipe, dataset: SensorDataset, prepared: Prepared, members: Members, *, facts: dict[str, Any]
) -> Trained:
    """Make the interval of what nets say of machines they have not seen, and put the finished model together.

    Args:
        recipe: What was trained.
        dataset: The runs, with their splits.
        prepared: What the nets were trained on.
        members: The trained nets, block after block of one net for each of ``prepared.left_out``.
        facts: What ``training`` in checkpoint.json shall say besides.
    """
    task, front, table = rul_of(recipe), prepared.front, prepared.table
    held = prepared.held_out(members, task.cap)
    interval = Interval(len(task.quantiles), conformal.KNOTS, task.cap)
    near = held.near(task.cap)  # healthy rows are covered by the cap itself and would hide the others
    found = conformal.offsets(near.value, near.truth, near.group, task.quantiles, task.cap)
    judged = known(table_of(front, recipe.windowing(), lived(dataset.split("val"))))
    repeats = recipe.train.members * (len(members.nets) // len(prepared.left_out))
    machines = min(recipe.train.folds, len(np.unique(table.group)))
    surer = averaging(members, judged, repeats, machines, held, task.cap)
    interval.offsets.copy_(torch.from_numpy(found * surer))
    module = Regressor(front, members, interval, task.cap).eval()
    replay = replay_of(table, recipe.train.seed)
    return assemble(recipe, dataset, module, replay, held=held, facts={**facts, "averaging": surer})


def statistics(length: int) -> tuple[str, ...]:
    """Return the statistics of a window of this length."""
    return tuple(text.format(length=length) for text in STATISTICS)


def rul_of(recipe: SensorRecipe) -> RulTask:
    """Return the recipe's task."""
    if not isinstance(recipe.task, RulTask):
        raise BugError(recipe.name, f"is {recipe.task.kind}, not regression", "Please report it.")
    return recipe.task


def lived(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """Return the runs of which any row's remaining life is known."""
    return tuple(run for run in runs if run.rul is not None and np.isfinite(run.rul).any())


def known(table: Table) -> Table:
    """Return the rows whose remaining life is known."""
    return table.take(np.isfinite(table.life))


def check_groups(dataset: SensorDataset, table: Table) -> None:
    """Refuse what cannot be held out. Raises DataError."""
    count = len(np.unique(table.group))
    if count < 2:
        raise DataError(
            str(dataset.root),
            f"has {count} training machines whose remaining life is known, and one must be held out to know the error",
            "Add runs to failure, or fine-tune a base (model.base).",
        )


def folds(
    group: NDArray[np.int64], parts: int, repeats: int, seed: int, *, every_net: bool = False
) -> list[NDArray[np.int64]]:
    """Return the groups that each net leaves out: ``parts`` folds, drawn anew for each repeat.

    Of fewer groups there are fewer folds. ``every_net`` makes ``parts`` nets of them all the same: some leave out the
    same groups (a site of a federation must have as many nets as the others).
    """
    names = np.unique(group)
    folds_of = min(parts, len(names))
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(names) for _ in range(repeats)]
    nets = range(parts if every_net else folds_of)
    return [np.sort(order[net % folds_of :: folds_of]) for order in drawn for net in nets]


def schedule_of(recipe: SensorRecipe) -> Schedule:
    """Return how the nets are trained."""
    section = recipe.train
    return Schedule(
        steps=AUTO_STEPS if section.steps == "auto" else section.steps,
        batch_size=section.batch_size,
        learning_rate=_RATE if section.learning_rate == "auto" else section.learning_rate,
        weight_decay=section.weight_decay,
        dropout=recipe.model.dropout,
        channel_drop=section.channel_drop,
        seed=section.seed,
    )


def held_out(members: Members, table: Table, left_out: list[NDArray[np.int64]], cap: float) -> Held:
    """Return for each row the mean of the nets that never saw its group."""
    said = each(members, table.features).clip(0, 1) * cap
    unseen = np.stack([np.isin(table.group, out) for out in left_out])
    value = (said * unseen).sum(axis=0) / np.maximum(unseen.sum(axis=0), 1)
    return Held(value, np.minimum(table.life, cap), table.group, table.life)


def averaging(members: Members, judged: Table, repeats: int, machines: int, held: Held, cap: float) -> float:
    """Return how much smaller the error of all nets' mean is than that of those which spoke for the held-out machines.

    A held-out row is judged by one net of each repeat (by every ``machines``-th, where there are more nets than folds
    of machines), the model is the mean of all: without this its interval is too wide. The mean square error falls by
    the nets' variance, which validation machines tell (no net has seen them); the error it is compared with is the
    held-out one, of many more machines. 1 where there is no validation machine.
    """
    seen = judged.take(judged.life <= NEAR * cap)
    near = held.near(cap)
    error = rmse(near.value, near.truth) ** 2
    if not len(seen) or not error:
        return 1.0
    said = each(members, seen.features).clip(0, 1) * cap
    spoken = said.reshape(repeats, -1, len(seen)).mean(axis=0)
    together = np.stack([spoken[first::machines].mean(axis=0) for first in range(machines)])
    variance = float(together.var(axis=0).mean())
    return float(np.sqrt(np.clip(1 - variance / error, 0.5, 1.0)))


def replay_of(table: Table, seed: int) -> dict[str, NDArray[Any]]:
    """Return rows to keep for later fine-tuning, spread evenly over lives."""
    rng = np.random.default_rng(seed)
    most = min(_REPLAY_ROWS, max(1, _REPLAY_NUMBERS // table.features.shape[1]))
    index = np.sort(rng.choice(len(table), min(most, len(table)), replace=False))
    return {"replay/features": table.features[index], "replay/life": table.life[index].astype(np.float32)}


def assemble(
    recipe: SensorRecipe,
    dataset: SensorDataset,
    module: Regressor,
    replay: dict[str, NDArray[Any]],
    *,
    held: Held | None,
    facts: dict[str, Any],
) -> Trained:
    """Score every split and put the finished model together."""
    task, windowing = rul_of(recipe), recipe.windowing()
    scores: dict[str, Any] = dict(replay)
    metrics: dict[str, dict[str, float]] = {}
    middle = float(held.truth.mean()) if held is not None else task.cap / 2
    scores |= {"cap": np.float64(task.cap), "train/mean_rul": np.float64(middle)}
    for split in _JUDGED:
        runs = dataset.split(split)
        said = scored(module, table_of(module.front, windowing, runs), runs)
        scores |= {f"{split}/{name}": array for name, array in said.items()}
        metrics[split] = numbers(said, task.cap, middle)
    if held is not None:
        near = held.near(task.cap)
        low, high = _bounds(module.interval, near.value)
        metrics["cv"] = {
            "rmse": rmse(held.value, held.truth),
            "rmse_near": rmse(near.value, near.truth),
            "coverage_near": coverage(low, high, near.truth),
            "width_near": float(np.mean(high - low)),
            "windows": float(len(held.value)),
            "machines": float(len(np.unique(held.group))),
        }
    section = recipe.policy
    return Trained(
        module=module,
        task=window_regression(windowing.length, len(windowing.names), task.quantiles, task.unit),
        policy=RegressionPolicy(
            act_below=section.act_below,
            warn_below=section.warn_below,
            judge=section.judge,
            alarm=section.alarm,
            deadline_ms=section.deadline_ms,
        ),
        architecture="+".join(module.front.body.kinds),
        config=describe(module),
        metrics=metrics,
        scores=scores,
        facts={**facts, "cap": task.cap, "parameters": sum(p.numel() for p in module.parameters())},
    )


def describe(module: Regressor) -> dict[str, Any]:
    """Return the config from which `edge_sft.models.sensors.regressor.build` rebuilds the module."""
    return {
        "architecture": "+".join(module.front.body.kinds),
        "cap": module.cap,
        "width": module.members.width,
        "members": len(module.members.nets),
        "knots": len(module.interval.knots),
        "statistics": list(module.front.body.texts),
        "normalise": module.front.normalise.config,
    }


def scored(module: Regressor, table: Table, runs: tuple[Run, ...]) -> dict[str, NDArray[Any]]:
    """Return what the module says about each window, and what is known: run, end, rul, value, low, high."""
    value = each(module.members, table.features).mean(axis=0).clip(0, 1) * module.cap
    low, high = _bounds(module.interval, value)
    return {
        "run": np.array([runs[number].id for number in table.run], dtype=np.str_),
        "end": table.end,
        "rul": table.life,
        "value": value.astype(np.float32),
        "low": low.astype(np.float32),
        "high": high.astype(np.float32),
    }


def numbers(said: dict[str, NDArray[Any]], cap: float, middle: float) -> dict[str, float]:
    """Return errors over windows and over each run's last window, clipped and raw, beside saying always the mean."""
    have = np.isfinite(said["rul"])
    if not have.any():
        return {}
    life, value, run = said["rul"][have], said["value"][have].astype(np.float64), said["run"][have]
    truth = np.minimum(life, cap)
    last = np.append(np.flatnonzero(run[1:] != run[:-1]), len(run) - 1)
    return {
        "rmse": rmse(value, truth),
        "rmse_raw": rmse(value, life),
        "rmse_last": rmse(value[last], truth[last]),
        "rmse_of_mean": rmse(np.full(len(truth), middle), truth),
        "coverage": coverage(said["low"][have], said["high"][have], truth),
        "width": float(np.mean(said["high"][have] - said["low"][have])),
        "windows": float(have.sum()),
        "runs": float(len(last)),
    }


def _bounds(interval: Interval, value: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    with torch.no_grad():
        quantiles = interval(torch.from_numpy(value.astype(np.float32))).double().numpy()
    return quantiles[:, 0], quantiles[:, -1]

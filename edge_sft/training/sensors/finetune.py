"""From a base to a few labelled machines: replayed rows mixed in, and the base is kept unless held-out error improves.

Plain fine-tuning on few runs is worse than none. So each candidate is judged on machines it has not seen, it must win
by more than chance would, and what wins lies between the base and the fine-tuned weights. With fewer than three
labelled machines nothing can be judged: the base stays.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from edge_sft import checkpoint as files
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.sensors.dataset import SensorDataset
from edge_sft.errors import DataError, UserError
from edge_sft.models.sensors import inference
from edge_sft.models.sensors.mlp import Members
from edge_sft.models.sensors.regressor import Regressor, lifelong
from edge_sft.progress import Progress
from edge_sft.sensor_recipe import SensorRecipe
from edge_sft.task import window_regression
from edge_sft.training.sensors import conformal
from edge_sft.training.sensors.features import Table, missing, table_of
from edge_sft.training.sensors.members import Material, each
from edge_sft.training.sensors.members import train as train_members
from edge_sft.training.sensors.regression import NEAR, Held, assemble, folds, known, lived, rul_of, schedule_of
from edge_sft.training.sensors.trained import Trained

STEPS = 200
_GENTLER = 0.1  # share of the learning rate from scratch
_LEAST = 3  # machines; from fewer the spread of an improvement cannot be told
_WIDEN = 5  # machines from which the interval may be widened to what they show
_SHARES = (0.25, 0.5, 0.75, 1.0)  # of the way from the base to the fine-tuned weights
# How sure an improvement must be (one-sided, Student's t over machines); strict, for the best of four shares is asked
_SURE = 0.975


@dataclass(frozen=True)
class Adapted:
    """What fine-tuning came to.

    Attributes:
        members: The nets to use.
        share: How far from the base to the fine-tuned weights they lie; 0 = the base is kept.
        held: What they say about machines they have not seen.
        errors: Root mean square error on those machines for each share.
        why: One sentence.
    """

    members: Members
    share: float
    held: Held
    errors: dict[str, float]
    why: str


def from_base(recipe: SensorRecipe, dataset: SensorDataset, progress: Progress) -> Trained:
    """Fine-tune ``model.base`` as the recipe says.

    Raises:
        UserError: The base is of another family (channels, window, cap, quantiles).
        DataError: No base there, or no machine with a known life to learn from.
    """
    directory = Path(str(recipe.model.base))
    meta = files.read_meta(directory)
    module = _checked(recipe, directory, meta)
    table = known(table_of(module.front, recipe.windowing(), lived(dataset.split("train"))))
    if not len(table):
        raise DataError(
            str(dataset.root), "has no training machine whose remaining life is known", "Deploy the base as it is."
        )
    kept = files.read_sensor_scores(directory)
    replay = {name: kept[name] for name in ("replay/features", "replay/life")}
    adapted = adapt(module, table, replay, recipe, progress)
    result = copy.deepcopy(module)
    result.members = adapted.members
    _widen(result, adapted.held, rul_of(recipe).quantiles)
    facts = {
        "kept_base": adapted.share == 0,
        "base": meta.weights_sha256,
        "base_share": 1 - adapted.share,
        "held_out_errors": adapted.errors,
        "why": adapted.why,
    }
    return assemble(recipe, dataset, result.eval(), replay, held=adapted.held, facts=facts)


def adapt(
    base: Regressor, table: Table, replay: dict[str, NDArray[Any]], recipe: SensorRecipe, progress: Progress
) -> Adapted:
    """Fine-tune on a table's machines and judge it machine by machine.

    Args:
        base: What to start from; not changed.
        table: Features by the base's own front, of machines with a known life.
        replay: ``replay/features`` and ``replay/life`` of the base's data.
        recipe: Its ``train`` section: steps, replay, learning rate.
        progress: Told how far it is.
    """
    table = table.take(table.life <= NEAR * base.cap)  # healthy rows are many, and knowing them better helps nobody
    truth = np.minimum(table.life, base.cap)
    before = each(base.members, table.features).mean(axis=0).clip(0, 1) * base.cap
    count = len(np.unique(table.group))
    held = Held(before, truth, table.group, table.life)
    errors = {"0": _error(before, truth, table.group)}
    if count < _LEAST:
        why = f"{count} labelled machines: too few to tell whether fine-tuning helps, the base is kept"
        return Adapted(base.members, 0.0, held, errors, why)
    left_out = folds(table.group, recipe.train.folds, 1, recipe.train.seed)
    nets = tuned(base, table, replay, left_out, recipe, progress)
    said = {share: _said(base, nets, share, table, left_out) for share in _SHARES}
    errors |= {f"{share:g}": _error(value, truth, table.group) for share, value in said.items()}
    best = min(_SHARES, key=lambda share: errors[f"{share:g}"])
    gain = _by_group((before - truth) ** 2 - (said[best] - truth) ** 2, table.group)
    doubt = float(student.ppf(_SURE, count - 1) * gain.std(ddof=1) / np.sqrt(count))
    if float(gain.mean()) <= doubt:
        why = f"on machines held out, fine-tuning does not beat the base by more than chance ({count} machines)"
        return Adapted(base.members, 0.0, held, errors, why)
    final = tuned(base, table, replay, [np.array([], dtype=np.int64)], recipe, progress)
    why = f"on machines held out, the error falls from {errors['0']:.3g} to {errors[f'{best:g}']:.3g}"
    return Adapted(
        _between(base.members, final, best), best, Held(said[best], truth, table.group, table.life), errors, why
    )


def tuned(
    base: Regressor,
    table: Table,
    replay: dict[str, NDArray[Any]],
    left_out: list[NDArray[np.int64]],
    recipe: SensorRecipe,
    progress: Progress,
) -> Members:
    """Return the base's nets fine-tuned once for each fold of groups to leave out, fold by fold; nothing is judged."""
    one = base.members
    nets = len(one.nets)
    members = one.with_nets(copy.deepcopy(net) for _ in left_out for net in one.nets)
    rows = [np.flatnonzero(~np.isin(table.group, out)) for out in left_out for _ in range(nets)]
    material = Material(
        features=torch.from_numpy(table.features),
        target=_target(table.life, base.cap),
        rows=tuple(rows),
        missing=missing(base.front),
        channel_of=base.front.body.channel_of,
        always=lifelong(recipe.windowing()),
        replay=(torch.from_numpy(replay["replay/features"]), _target(replay["replay/life"], base.cap)),
        replay_share=recipe.train.replay,
    )
    schedule = schedule_of(recipe)
    schedule = replace(
        schedule,
        steps=STEPS if recipe.train.steps == "auto" else recipe.train.steps,
        learning_rate=schedule.learning_rate * _GENTLER,
    )
    train_members(members, material, schedule, progress)
    return members


def _said(
    base: Regressor, tuned: Members, share: float, table: Table, left_out: list[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Return for each row what the nets that did not see its machine say, ``share`` of the way to fine-tuned."""
    nets = len(base.members.nets)
    value = np.zeros(len(table))
    for fold, out in enumerate(left_out):
        part = tuned.with_nets(list(tuned.nets)[fold * nets : (fold + 1) * nets])
        mine = np.isin(table.group, out)
        said = each(_between(base.members, part, share), table.features[mine])
        value[mine] = said.mean(axis=0).clip(0, 1) * base.cap
    return value


def _between(base: Members, tuned: Members, share: float) -> Members:
    """Return nets whose weights lie between two."""
    mixed = copy.deepcopy(base)
    with torch.no_grad():
        for mine, other in zip(mixed.nets.parameters(), tuned.nets.parameters(), strict=True):
            mine.lerp_(other, share)
    return mixed


def _widen(module: Regressor, held: Held, levels: tuple[float, ...]) -> None:
    """Widen the base's interval where the new machines show that it covers too little.

    Not by what conformal prediction asks of so few machines: the base's interval comes from many.
    """
    if len(np.unique(held.group)) < _WIDEN:
        return
    near = held.near(module.cap)
    found = module.interval.offsets.double().numpy()
    factor = conformal.widening(found, near.value, near.truth, near.group, levels, module.cap)
    module.interval.offsets.mul_(factor)


def _checked(recipe: SensorRecipe, directory: Path, meta: CheckpointMeta) -> Regressor:
    task, windowing = rul_of(recipe), recipe.windowing()
    wanted = window_regression(windowing.length, len(windowing.names), task.quantiles, task.unit)
    unlike = [
        name
        for name, same in (
            ("the task (window length, channels, quantiles, unit)", meta.task == wanted),
            ("the windows' making", meta.preprocess == windowing),
            ("task.cap", meta.training.get("cap") == task.cap),
        )
        if not same
    ]
    if unlike:
        raise UserError(
            f"model.base {directory}", f"is of another family: {', '.join(unlike)} differ", "Use the base's own values."
        )
    module = inference.load(directory)
    if not isinstance(module, Regressor):
        raise UserError(f"model.base {directory}", f"is {meta.task.kind}", "Give a checkpoint of remaining life.")
    return module


def _target(life: NDArray[Any], cap: float) -> torch.Tensor:
    return torch.from_numpy(np.clip(life / cap, 0, 1).astype(np.float32))


def _by_group(values: NDArray[np.float64], group: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.array([values[group == name].mean() for name in np.unique(group)])


def _error(value: NDArray[np.float64], truth: NDArray[np.float64], group: NDArray[np.int64]) -> float:
    return float(np.sqrt(_by_group((value - truth) ** 2, group).mean()))

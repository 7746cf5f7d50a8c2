"""From labels, lives and groups to sentences: what the data can prove and what not. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.findings import Finding
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.data.sensors.findings import LabelRows, SideCount
from edge_sft.data.sensors.wording import count, names, percent
from edge_sft.sensor_recipe import FaultTask, RulTask, SensorRecipe

_FEW = 3  # groups on a side: an interval from fewer is a guess
_UNITS = 10  # faulty machines a class, below which a model learns these machines


def judge_labels(
    recipe: SensorRecipe, dataset: SensorDataset, sides: Sequence[SideCount], labels: Sequence[LabelRows]
) -> Iterator[Finding]:
    """Judge groups, labels and remaining life."""
    yield from _machines(recipe, dataset, sides)
    if isinstance(recipe.task, RulTask):
        yield from _lives(recipe.task, dataset.runs)
    else:
        yield from _labels(recipe, dataset, labels)


def _machines(recipe: SensorRecipe, dataset: SensorDataset, sides: Sequence[SideCount]) -> Iterator[Finding]:
    assets = {run.asset for run in dataset.runs}
    if recipe.data.group.startswith("time:") or (len(assets) == 1 and len({run.group for run in dataset.runs}) > 1):
        yield Finding(
            "note",
            "machines",
            "All rows come from one machine: results hold for this machine, not for another.",
            "For others, add their recordings, or commission the model on each (edge-sft commission).",
        )
    few = [side for side in sides if side.side != "train" and 0 < side.groups < _FEW]
    if few and not recipe.data.group.startswith("time:"):
        said = " and ".join(f"{count(side.groups, 'group')} in {side.side}" for side in few)
        text = f"Only {said}: numbers from so few machines can be far off."
        yield Finding("warning", "machines", text, "Record more machines or runs.")
    if not any(side.side == "test" and side.groups for side in sides):
        text = "There is no test split: nothing can be reported about machines that chose nothing."
        yield Finding("note", "machines", text, "Set data.split.test or data.split.test_groups.")


def _lives(task: RulTask, runs: Sequence[Run]) -> Iterator[Finding]:
    known = [run for run in runs if run.rul is not None]
    if len(known) < len(runs):
        ids = tuple(run.id for run in runs if run.rul is None)
        yield Finding(
            "note" if known else "error",
            "life",
            f"{count(len(ids), 'run')} of {len(runs):,} do not end in a failure: their remaining life is not known.",
            "They are not trained on." if known else "Name the failures in data.events, or give data.rul.",
            ids,
        )
    rising = tuple(run.id for run in known if run.rul is not None and _rises(run.rul))
    if rising:
        text = f"Remaining life rises within {count(len(rising), 'run')}, for example {names(rising, 1)}."
        yield Finding("error", "life", text, "Is data.rul the right column, and data.run set?", rising)
    negative = tuple(run.id for run in known if run.rul is not None and np.nanmin(run.rul) < 0)
    if negative:
        text = f"Remaining life is below 0 in {count(len(negative), 'run')}, for example {names(negative, 1)}."
        yield Finding("warning", "life", text, "Was the machine still recorded after its failure?", negative)
    short = [run for run in known if run.rul is not None and np.nanmax(run.rul) < task.cap]
    if known and len(short) == len(known):
        longest = max(float(np.nanmax(run.rul)) for run in known if run.rul is not None)
        yield Finding(
            "warning",
            "life",
            f"No run is as long as task.cap ({task.cap:g} {task.unit}); the longest has {longest:g}.",
            "Set task.cap to where wear can first be seen, in the time column's unit.",
        )
    usual = float(np.median([float(np.nanmax(run.rul)) for run in known if run.rul is not None])) if known else 0.0
    if usual > 100 * task.cap:
        yield Finding(
            "warning",
            "life",
            f"Lives are about {usual:.4g} long in the time column's unit, task.cap is {task.cap:g}: nearly all of a "
            "life counts as equally healthy.",
            "Set task.cap in the time column's unit (dates count seconds).",
        )


def _rises(rul: NDArray[np.float64]) -> bool:
    steps = np.diff(rul[np.isfinite(rul)])
    return bool(len(steps) and (steps > 0).mean() > 0.02)


def _labels(recipe: SensorRecipe, dataset: SensorDataset, labels: Sequence[LabelRows]) -> Iterator[Finding]:
    unknown = sum(int((run.labels < 0).sum()) for run in dataset.runs if run.labels is not None)
    if unknown:
        share = unknown / sum(len(run.time) for run in dataset.runs)
        text = f"Without a label: {count(unknown, 'row')} ({percent(share)}), neither trained on nor scored."
        yield Finding("note", "label", text)
    if not isinstance(recipe.task, FaultTask):
        if dataset.labels and not sum(labels[1].rows.values()):
            yield Finding("note", "label", "No row is labelled as an anomaly: only false alarms can be counted.")
        train = sum(row.rows["train"] for row in labels[1:])
        if train:
            text = f"{count(train, 'row')} of train are anomalies; a model of the healthy machine leaves them out."
            yield Finding("note", "label", text)
        return
    for row in labels:
        absent = [side.side for side in _sides(dataset) if not row.rows[side.side] and side.groups]
        if absent:
            text = f"No run of '{row.label}' is in {' and '.join(absent)}."
            yield Finding("warning", "label", text, "Record it on another machine; at least three per label.")
        machines = sum(row.groups.values())
        if row.label not in recipe.task.ok and machines < _UNITS:
            yield Finding(
                "warning",
                "confounded",
                f"'{row.label}' comes from {count(machines, 'group')} only: a model may learn "
                f"{'that machine' if machines == 1 else 'those machines'} instead of the fault.",
                "Ten or more machines a fault make it credible; the split by group shows what this costs.",
            )


def _sides(dataset: SensorDataset) -> list[SideCount]:
    return [
        SideCount(side, len({run.group for run in dataset.split(side)}), len(dataset.split(side)), 0)
        for side in ("train", "val", "test")
    ]

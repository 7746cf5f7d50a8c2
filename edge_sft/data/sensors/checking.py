"""What is the matter with sensor data, in words: everything worth knowing before a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edge_sft.data.dataset import SplitName
from edge_sft.data.findings import Finding, Severity
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.data.sensors.findings import ChannelSummary, LabelRows, SensorFindings, SideCount, Sketch
from edge_sft.data.sensors.judging_labels import judge_labels
from edge_sft.data.sensors.judging_time import judge_time
from edge_sft.data.sensors.judging_units import judge_units
from edge_sft.data.sensors.judging_values import judge_values
from edge_sft.data.sensors.looking import ChannelLook, envelope, look_at_channel, look_at_time
from edge_sft.preprocess.validity import Validity
from edge_sft.progress import Progress, Silent
from edge_sft.sensor_recipe import ChannelSection, SensorRecipe

_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
_SIDES: tuple[SplitName, ...] = ("train", "val", "test")
_SAMPLE = 200_000  # values of a channel that percentiles are taken of


def check_sensors(
    recipe: SensorRecipe,
    dataset: SensorDataset,
    progress: Progress = Silent(),  # noqa: B008
) -> SensorFindings:
    """Judge sensor data against what its recipe asks for.

    Args:
        recipe: What is to be trained.
        dataset: As `open_sensor_dataset` made it.
        progress: Told about every run.
    """
    validity = Validity(recipe.windowing())
    runs = tuple(replace(run, values=validity.in_units(run.values)) for run in dataset.runs)
    progress.start("Looking at channels", len(runs))
    times, looks = [], []
    for run in runs:
        times.append(look_at_time(run.time))
        looks.append([look_at_channel(run.values[:, i]) for i in range(run.values.shape[1])])
        progress.advance(1)
    sides = tuple(_side(dataset, side) for side in _SIDES)
    labels = tuple(_label_rows(dataset, i, label) for i, label in enumerate(dataset.labels))
    found: list[Finding] = [
        *dataset.findings,
        *judge_time(recipe, runs, times),
        *judge_values(recipe, runs, looks),
        *judge_units(recipe, runs, looks),
        *judge_labels(recipe, dataset, sides, labels),
        *(Finding("note", "left-out", note) for note in dataset.notes),
    ]
    found.sort(key=lambda finding: _ORDER.index(finding.severity))
    channels = [
        _channel(recipe, channel, runs, [look[i] for look in looks], i)
        for i, channel in enumerate(recipe.data.channels)
    ]
    return SensorFindings(
        name=recipe.name,
        root=dataset.root,
        rows=sum(len(run.time) for run in runs),
        runs=len(runs),
        groups=len({run.group for run in runs}),
        findings=tuple(found),
        channels=tuple(replace(channel, words=_words(channel.name, found)) for channel in channels),
        sides=sides,
        labels=labels,
        quarantined=dataset.quarantined,
        fingerprint=dataset.fingerprint,
        test_fingerprint=dataset.test_fingerprint,
    )


def _side(dataset: SensorDataset, side: SplitName) -> SideCount:
    runs = dataset.split(side)
    return SideCount(side, len({run.group for run in runs}), len(runs), sum(len(run.time) for run in runs))


def _label_rows(dataset: SensorDataset, index: int, label: str) -> LabelRows:
    rows: dict[SplitName, int] = {}
    groups: dict[SplitName, int] = {}
    for side in _SIDES:
        counts = [
            (run.group, int((run.labels == index).sum())) for run in dataset.split(side) if run.labels is not None
        ]
        rows[side] = sum(number for _, number in counts)
        groups[side] = len({group for group, number in counts if number})
    return LabelRows(label, rows, groups)


def _channel(
    recipe: SensorRecipe, channel: ChannelSection, runs: Sequence[Run], looks: Sequence[ChannelLook], i: int
) -> ChannelSummary:
    rows, present = sum(look.rows for look in looks), sum(look.present for look in looks)
    step = max(1, rows // _SAMPLE)
    some = np.concatenate([run.values[::step, i] for run in runs])
    some = some[np.isfinite(some)]
    low, median, high = (float(p) for p in np.percentile(some, (1, 50, 99))) if len(some) else (np.nan,) * 3
    known = [look for look in looks if look.present]
    longest = max(zip(runs, looks, strict=True), key=lambda one: one[1].present)[0] if known else None
    return ChannelSummary(
        name=channel.name,
        unit=channel.unit,
        condition=channel.name in recipe.data.conditions,
        present=present / max(1, rows),
        smallest=min((look.smallest for look in known), default=np.nan),
        low=low,
        median=median,
        high=high,
        largest=max((look.largest for look in known), default=np.nan),
        runs_without=len(looks) - len(known),
        sketch=None if longest is None else _sketch(longest, i),
    )


def _sketch(run: Run, i: int) -> Sketch:
    lows, highs = envelope(run.time, run.values[:, i])
    return Sketch(run.id, float(run.time.min()), float(run.time.max()), tuple(lows), tuple(highs))


def _words(name: str, found: Sequence[Finding]) -> tuple[str, ...]:
    named = (f"Channel '{name}'", f"'{name}' and '", f"and '{name}' are")
    return tuple(dict.fromkeys(f.kind for f in found if any(words in f.text for words in named)))

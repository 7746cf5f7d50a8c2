"""From a sensor recipe to a SensorDataset: every file is read, every run gets labels, remaining life and a side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_sft.data.dataset import Quarantined
from edge_sft.data.findings import Finding
from edge_sft.data.sensors import events as logs
from edge_sft.data.sensors import labelling, reading_findings, splitting
from edge_sft.data.sensors.columns import Part, parts_of, span_of, wanted
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.data.sensors.joining import join
from edge_sft.data.sensors.labelling import ANOMALY_LABELS, Record
from edge_sft.data.sensors.listing import list_files
from edge_sft.data.sensors.tables import Table, read_tables
from edge_sft.errors import DataError, DeviceError, UserError
from edge_sft.progress import Progress, Silent
from edge_sft.sensor_recipe import FaultTask, SensorRecipe


def open_sensor_dataset(
    recipe: SensorRecipe,
    progress: Progress = Silent(),  # noqa: B008
    *,
    partial: bool = False,
) -> SensorDataset:
    """Read every file of a sensor recipe, derive labels and remaining life, and split by group.

    Args:
        recipe: As loaded by `edge_sft.sensor_recipe.load`, so that its paths hold from anywhere.
        progress: Told about every file.
        partial: Labels without a run are no mistake: a site of a federation.

    Returns:
        The data set; files that cannot be used are in ``quarantined``, what reading found is in ``findings``.

    Raises:
        DataError: Nothing to read, a channel that no file has, labels that the recipe does not know, a failure log
            that fits no machine, too few groups to split, or a split that leaks.
        UserError: The recipe asks for what cannot be.
        DeviceError: A package is missing that a type of file needs.
    """
    _check_time_blocks(recipe)
    root = Path(recipe.data.path)
    log = () if recipe.data.events is None else (Path(recipe.data.events.path),)
    listing = list_files(root, recipe.data.pattern, without=log)
    tables, parts, broken = _read(listing.files, recipe, progress)
    if not parts:
        raise DataError(str(root), f"has no usable rows: {_reasons(broken)}", "Mend the files or the recipe's columns.")
    reading_findings.refuse_absent_channels(recipe, tables, parts, root)
    records = [_record(part, recipe) for part in join(parts, recipe.data.run)]
    events = logs.read_events(recipe)
    found = [*reading_findings.of_tables(recipe, tables, parts, broken), *_judge_log(recipe, events, records)]
    records = _derive(records, events, recipe)
    records.sort(key=lambda record: record.id)
    chosen = splitting.sides(records, recipe)
    _check_sides(records, chosen, recipe)
    if not partial:
        _check_labelled(records, chosen, recipe)
    splitting.refuse_leaks(records, chosen, recipe)
    labels = _labels(records, recipe)
    return SensorDataset(
        root=listing.root,
        channels=tuple(channel.name for channel in recipe.data.channels),
        labels=labels,
        runs=tuple(_run(record, side) for record, side in zip(records, chosen, strict=True)),
        quarantined=tuple(broken),
        notes=listing.notes,
        findings=tuple(found),
        partial=partial,
    )


def _read(
    files: Sequence[tuple[str, Path]], recipe: SensorRecipe, progress: Progress
) -> tuple[list[Table], list[Part], list[Quarantined]]:
    tables: list[Table] = []
    parts: list[Part] = []
    broken: list[Quarantined] = []
    columns = wanted(recipe.data)
    lacking: DeviceError | None = None
    rows = 0
    progress.start("Reading files", len(files))

    def told(more: int) -> None:
        progress.advance(0, note=f"{rows + more:,} rows")

    for name, path in files:
        try:
            result = read_tables(path, name, columns, told)
        except DeviceError as error:
            lacking, result = error, f"cannot be read on this machine ({error})"
        for table in [] if isinstance(result, str) else result:
            cut = parts_of(table, recipe)
            if isinstance(cut, str):
                broken.append(Quarantined(table.name, cut))
            else:
                parts += cut
                rows += table.rows
                tables.append(replace(table, columns={}))
        if isinstance(result, str):
            broken.append(Quarantined(name, result))
        progress.advance(1, note=f"{rows:,} rows" + (f", {len(broken)} unusable" if broken else ""))
    if lacking is not None and not parts:
        raise lacking
    return tables, parts, broken


def _record(part: Part, recipe: SensorRecipe) -> Record:
    name = f"{part.file}/{part.run}" if part.run and not recipe.data.run.startswith("file:") else part.file
    if not part.run and recipe.data.group and not recipe.data.group.startswith(("file:", "time:")):
        name = f"{part.file}/{part.group}"
    group = part.group or name
    content = hashlib.sha256(part.time.tobytes())
    content.update(np.ascontiguousarray(part.values).tobytes())
    return Record(
        id=name,
        group=group,
        asset=part.asset or (group if span_of(recipe.data.group) is None else name),
        sha256=content.hexdigest(),
        time=part.time,
        values=part.values,
        told=part.labels,
        rul=part.rul,
        short=part.run or part.file.rpartition("/")[2].partition(".")[0],
    )


def _derive(records: Sequence[Record], events: Sequence[logs.Event], recipe: SensorRecipe) -> list[Record]:
    by_machine = logs.by_machine(events)
    result = []
    for record in records:
        cut: list[Record] = [record]
        mine = next((by_machine[name] for name in (*record.names, "") if name in by_machine), [])
        if recipe.data.events is not None and recipe.data.events.until is None:
            cut = list(labelling.at_events(record, mine))
        for piece in cut:
            derived = labelling.with_labels(labelling.with_rul(piece, recipe), mine, recipe)
            result += _blocks(derived, recipe)
    return result


def _blocks(record: Record, recipe: SensorRecipe) -> list[Record]:
    """Cut a record into blocks of time where ``data.group`` says so; each is a run and a group of its own."""
    span = span_of(recipe.data.group)
    if span is None:
        return [record]
    block = np.floor(record.time / span).astype(np.int64)
    pieces = []
    order = np.argsort(block, kind="stable")
    held, firsts = np.unique(block[order], return_index=True)
    for which, keep in zip(held.tolist(), np.split(order, firsts[1:]), strict=True):
        start = which * span
        # dates where the column is a clock, else the block's number
        name = str(np.datetime64(int(start), "s")) if start > 1e8 else str(which)
        piece = record.rows(keep)
        pieces.append(replace(piece, id=f"{record.id}/{name}", group=name, sha256=f"{record.sha256} {name}"))
    return pieces


def _check_time_blocks(recipe: SensorRecipe) -> None:
    if not recipe.data.group.startswith("time:"):
        return
    if span_of(recipe.data.group) is None:
        raise UserError("data.group", f"'{recipe.data.group}' is no span of time", "Write for example time:7d.")
    if recipe.task.kind != "anomaly":
        fact = "cuts one machine's time into groups, which is for anomaly detection only: neighbouring blocks of a run "
        raise UserError(
            "data.group", fact + "to failure or of a fault are alike", "Name the column of the machine or run."
        )


def _judge_log(recipe: SensorRecipe, events: Sequence[logs.Event], records: Sequence[Record]) -> list[Finding]:
    recordings = [(record.names, float(record.time.min()), float(record.time.max())) for record in records]
    return logs.judge(recipe, events, recordings)


def _check_sides(records: Sequence[Record], chosen: Sequence[str], recipe: SensorRecipe) -> None:
    groups = sorted({record.group for record in records})
    for side, use in (("train", "to train on"), ("val", "to choose thresholds and intervals")):
        if side in chosen:
            continue
        shown = ", ".join(f"'{group[:60]}'" for group in groups[:6])
        remedy = "Name the column or file pattern that tells machines or runs apart (data.group)"
        if recipe.task.kind == "anomaly":
            remedy += ", or cut one machine's time into blocks with data.group = 'time:7d'"
        raise DataError(
            str(recipe.data.path),
            f"has {len(groups)} group{'' if len(groups) == 1 else 's'} ({shown}), and none is left {use}",
            f"{remedy}.",
        )


def _check_labelled(records: Sequence[Record], chosen: Sequence[str], recipe: SensorRecipe) -> None:
    if not isinstance(recipe.task, FaultTask):
        return
    trained: set[int] = set()
    for record, side in zip(records, chosen, strict=True):
        if side == "train" and record.labels is not None:
            trained |= set(np.unique(record.labels).tolist())
    absent = [label for i, label in enumerate(recipe.task.labels) if i not in trained]
    if absent:
        raise DataError(
            str(recipe.data.path),
            f"has no run of {', '.join(repr(label) for label in absent)} to train on",
            "Collect some from at least two machines, or take the label out of task.labels.",
        )


def _labels(records: Sequence[Record], recipe: SensorRecipe) -> tuple[str, ...]:
    if isinstance(recipe.task, FaultTask):
        return recipe.task.labels
    return ANOMALY_LABELS if any(record.labels is not None for record in records) else ()


def _run(record: Record, side: str) -> Run:
    digest = hashlib.sha256(record.sha256.encode() + record.time.tobytes())
    for extra in (record.labels, record.rul):  # a corrected failure log is other data
        digest.update(b"-" if extra is None else np.ascontiguousarray(extra).tobytes())
    return Run(
        id=record.id,
        group=record.group,
        asset=record.asset,
        split=side,  # type: ignore[arg-type]
        time=record.time,
        values=record.values,
        labels=record.labels,
        rul=record.rul,
        sha256=digest.hexdigest(),
        failed=record.failed,
    )


def _reasons(broken: Sequence[Quarantined]) -> str:
    shown = "; ".join(f"{left.id} {left.reason}" for left in broken[:3])
    return f"{shown}; and {len(broken) - 3} more" if len(broken) > 3 else shown

"""The text of a commented sensor recipe: every key of the model in its order, with its default or what was seen."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from edge_sft.data.drafting import toml
from edge_sft.data.recognise import model_name
from edge_sft.data.sensors import csv_tables
from edge_sft.data.sensors.columns import canonical
from edge_sft.data.sensors.labelling import HEALTHY, UNHEALTHY
from edge_sft.data.sensors.listing import list_files
from edge_sft.data.sensors.recognise import Sighted, sight, with_unit
from edge_sft.data.sensors.tables import Wanted, kind_of, read_tables
from edge_sft.data.sensors.wording import count
from edge_sft.data.words import means_good
from edge_sft.errors import DataError
from edge_sft.sensor_recipe import AnomalyTask, FaultTask, RulTask, SensorRecipe

COMMENTS: dict[str, str] = {
    "schema_version": "version of this file's format",
    "modality": "window: rows of sensors",
    "name": "of the model; part of file names and messages",
    "version": "raise it with every model you hand to the line",
    "task.kind": "classification: which fault; anomaly: like when healthy or not; regression: how long until failure",
    "task.labels": "in the order of the model's outputs; keep the order once a model is on the line",
    "task.ok": "labels of a healthy machine; [] = none",
    "task.cap": "more life than this cannot be seen yet and counts as this; in the time column's unit",
    "task.unit": "what remaining life counts",
    "task.quantiles": "of the interval around a remaining life",
    "data.path": "a file, or a folder of files",
    "data.pattern": "which files of the folder; with a / it is matched against the path below the folder",
    "data.layout": "wide: a column a channel; long: columns channel and value",
    "data.time": 'time column; "" = rows are window.period_s apart',
    "data.time_format": "auto, seconds, milliseconds, iso, or index (a row number)",
    "data.run": 'column that tells runs apart; "" = a run a file; file:REGEX = files of equal match are one run',
    "data.group": 'what stays on one side of the split (machine, bearing): column or file:REGEX; "" = the run',
    "data.asset": 'machine on the line: column or file:REGEX; "" = the group',
    "data.label": 'column of labels, or file:REGEX; "" = none',
    "data.rul": 'column of remaining life; "" = counted down to each run\'s end, or from the events',
    "data.channel_column": "of the long layout",
    "data.value_column": "of the long layout",
    "data.separator": 'of CSV files; "" = found out',
    "data.channels": "name; column in the files if it differs (* and ? stand for what differs from file to file); "
    "unit; low, high: plausible limits; stuck_s: not valid after repeating itself for so long; scale, offset: value × "
    "scale + offset",
    "data.conditions": "channels that say how the machine is being run (speed, load), not how it is",
    "data.split.val": "share of the groups that chooses thresholds and intervals",
    "data.split.test": "share that is only reported",
    "data.split.seed": "another seed, another cut",
    "data.split.val_groups": "name groups instead (* and ? work)",
    "data.split.test_groups": "name groups instead",
    "data.events.path": "failure log: a row an event",
    "data.events.time": "its column of times, in the data's clock",
    "data.events.until": "its column of ends, where events are stretches of time",
    "data.events.group": 'its column of machines, as the data calls them; "" = there is one machine',
    "data.events.kind": "its column of kinds",
    "data.events.failures": "kinds that are failures; [] = all; other events only end a run",
    "data.events.horizon": "so long before a failure rows count as pre-failure, in the time column's unit",
    "window.period_s": "step of the grid, in the time column's unit",
    "window.length": "steps that a window holds",
    "window.hop": "steps from one window to the next",
    "window.aggregate": "of several rows in a step: last or mean",
    "window.hold_s": "how long a value stands where no new one came",
    "window.gap_s": "a longer silence begins a new run",
    "window.age": "add the time since the run began as a channel (cycle count, hours since overhaul)",
    "window.age_unit": "the age is divided by this",
    "window.min_valid": "smallest share of values there must be to decide",
    "window.order": "order tracking: resample by the shaft's angle",
    "normalise.by": "global, or condition: by the nearest operating point",
    "normalise.clusters": "operating points to tell apart",
    "model.architecture": "auto: mlp+tcn for remaining life, spectral for vibration, bank for anomalies",
    "model.width": "of hidden layers",
    "model.dropout": "against learning by heart",
    "model.bank_size": "healthy examples that a bank keeps",
    "model.neighbours": "of a bank's examples that are compared with",
    "model.embedding": "numbers that the encoder sees in a channel",
    "model.base": "a checkpoint of the same family to start from",
    "train.steps": '"auto": the task\'s own',
    "train.batch_size": "windows a step",
    "train.learning_rate": 'highest; "auto": the task\'s own',
    "train.weight_decay": "against large weights",
    "train.members": "nets of different seeds, averaged in the model",
    "train.seed": "another seed, another training",
    "policy.act_below": "remaining life at which to act",
    "policy.warn_below": "remaining life at which to warn",
    "policy.judge": "by the low end of the interval, or by the value",
    "policy.escape_cost": "what a missed fault costs, in any unit",
    "policy.overkill_cost": "what a false alarm costs, in the same unit",
    "policy.alarm.on_after_s": "an alarm opens after being past its limit for so long",
    "policy.alarm.off_after_s": "and closes after being back for so long",
    "policy.alarm.clear_ratio": "back means below this share of the limit",
    "policy.alarm.stale_s": "a machine silent for longer is offline, not healthy",
    "policy.deadline_ms": "a decision later than this is no_decision",
    "export.variants": "what to make; each must pass its gate, fp32 is the reference",
    "export.tolerance_points": "loss allowed: points of accuracy, or per cent of the error of a remaining life",
}
EXAMPLES: dict[str, Any] = {
    "window.gap_s": 3600.0,
    "window.order": {"speed_channel": "rpm", "samples_per_revolution": 64},
    "model.base": "base/",
    "policy.warn_below": 50.0,
    "policy.alarm.on_after_s": "an alarm opens after being past its limit for so long",
    "policy.alarm.off_after_s": "and closes after being back for so long",
    "policy.alarm.clear_ratio": "back means below this share of the limit",
    "policy.alarm.stale_s": "a machine silent for longer is offline, not healthy",
    "policy.deadline_ms": 1000,
    "data.events.kind": "kind",
    "data.events.until": "end",
    "data.events.horizon": 50.0,
    "data.events": {"path": "failures.csv", "time": "time", "group": "machine"},
}
_BLOCKS = (("d", 86400.0, (28, 14, 7, 3, 2, 1)), ("h", 3600.0, (12, 6, 3, 2, 1)), ("m", 60.0, (30, 15, 10, 5, 2, 1)))


def draft_sensor_recipe(path: Path, *, here: Path | None = None) -> str:
    """Write a commented sensor recipe for a file or folder of rows.

    Args:
        path: What the user pointed at.
        here: Folder that the recipe will lie in; data below it is written as a relative path.

    Returns:
        TOML that `edge_sft.sensor_recipe.load` reads without edits.

    Raises:
        DataError: Nothing there, no table, or no column of numbers.
    """
    seen = sight(list_files(path))
    if isinstance(seen, str):
        raise DataError(str(path), seen, "A table has a header and a row a moment.")
    if not seen.channels:
        raise DataError(str(path), "has no column of numbers to learn from", "Name the channels in a recipe by hand.")
    values, remarks = _values(seen, path, here)
    return "\n".join([*(f"# {line}" for line in _opening(seen, path)), "", *_write(values, remarks)]) + "\n"


def _values(seen: Sighted, path: Path, here: Path | None) -> tuple[dict[str, Any], dict[str, list[str]]]:
    values: dict[str, Any] = {"name": _name(path), "modality": "window", "data.path": _written(path, here)}
    remarks: dict[str, list[str]] = {}
    if path.is_dir() and seen.events is not None:
        suffixes = {file.name.partition(".")[2] for _, file in seen.listing.files}
        values["data.pattern"] = f"*.{suffixes.pop()}" if len(suffixes) == 1 else "*"
    if seen.time is not None:
        values["data.time"] = seen.time.name
    else:
        remarks["data.time"] = ["No time column was recognised: rows count as window.period_s apart."]
    if seen.long is not None:
        values.update({"data.layout": "long", "data.channel_column": seen.long[0].name})
        values["data.value_column"] = seen.long[1].name
    for role in ("run", "group"):
        column = getattr(seen, role)
        if column is not None:
            values[f"data.{role}"] = column.name
    if seen.by_sensor:
        nested = any(seen.folders)
        values["data.run"] = "file:^(.+)/[^/]+$" if nested else r"file:\.[a-z.]+$"
        remarks["data.run"] = ["Each file holds one sensor: files of one folder are put side by side."]
    values["data.channels"] = _channels(seen)
    conditions = [with_unit(column)[0] for column in seen.conditions]
    values["data.conditions"] = [name for name in conditions if name in {c["name"] for c in values["data.channels"]}]
    _task(seen, values, remarks)
    _events(seen, values, remarks, here)
    _groups(seen, values, remarks)
    values["window.period_s"] = seen.step
    if seen.long is not None:
        values["window.hold_s"] = 2 * seen.step
        remarks["window.hold_s"] = ["Channels come one by one: each stands until its next value is due."]
    if values["task.kind"] == "regression":
        values |= {"window.length": 100, "window.min_valid": 0.01}
        remarks["window.min_valid"] = ["Windows begin with a machine's first row; a small share decides early on."]
    return values, remarks


def _name(path: Path) -> str:
    return model_name(Path(path.name.partition(".")[0] or path.name) if path.is_file() else path)


def _channels(seen: Sighted) -> list[dict[str, Any]]:
    named: list[dict[str, Any]] = []
    taken: set[str] = set()
    for column in seen.channels:
        name, unit = with_unit(column)
        name = name if name not in taken else column.name
        taken.add(name)
        row: dict[str, Any] = {"name": name[:100]}
        if name[:100] != column.name:
            row["column"] = column.name
        if unit:
            row["unit"] = unit
        named.append(row)
    return named


def _task(seen: Sighted, values: dict[str, Any], remarks: dict[str, list[str]]) -> None:
    labels = [canonical(cell) for cell in seen.label.distinct] if seen.label is not None else []
    folders = [folder.partition("/")[0] for folder in seen.folders if folder]
    classes = sorted(set(folders))
    if seen.rul is not None:
        values.update({"task.kind": "regression", "data.rul": seen.rul.name})
    elif labels and all(label.casefold() in HEALTHY | UNHEALTHY or means_good(label) for label in labels):
        values.update({"task.kind": "anomaly", "data.label": seen.label.name if seen.label else ""})
    elif len(labels) > 1:
        values.update({"task.kind": "classification", "data.label": seen.label.name if seen.label else ""})
        _named_labels(labels, values)
        remarks["task.labels"] = ["From the first rows of some files: add labels that come later."]
    elif len(classes) > 1 and any(means_good(folder) for folder in classes) and not seen.by_sensor:
        values.update({"task.kind": "classification", "data.label": "file:^([^/]+)/"})
        _named_labels(classes, values)
        remarks["data.label"] = ["The folders look like labels."]
    elif seen.run is not None and seen.time is not None and not seen.time.dated:
        values["task.kind"] = "regression"
        remarks["task.kind"] = ["Numbered runs that count upward look like runs to failure; if not, write anomaly."]
    else:
        values["task.kind"] = "anomaly"
        remarks["task.kind"] = ["No label and no remaining life was recognised."]
    if values["task.kind"] == "regression":
        values["task.unit"] = "cycles" if seen.time is None or not seen.time.dated else "s"


def _named_labels(labels: list[str], values: dict[str, Any]) -> None:
    good = [label for label in labels if means_good(label) or label.casefold() in HEALTHY]
    values["task.labels"] = [*good, *(label for label in labels if label not in good)]
    values["task.ok"] = good


def _events(seen: Sighted, values: dict[str, Any], remarks: dict[str, list[str]], here: Path | None) -> None:
    if seen.events is None:
        return
    log, time, machine, kind = seen.events
    values["data.events"] = True
    values.update({"data.events.path": _written(log, here), "data.events.time": time.name})
    values["data.events.group"] = machine.name
    if kind is not None:
        values["data.events.kind"] = kind.name
        remarks["data.events.failures"] = [f"Kinds in it: {', '.join(kind.distinct[:12])}."]
    if seen.label is None and seen.rul is None:
        values["task.kind"] = "regression"
        remarks["task.kind"] = ["There is a failure log: remaining life is counted to its failures."]
        values["task.unit"] = "s" if time.dated else "cycles"


def _groups(seen: Sighted, values: dict[str, Any], remarks: dict[str, list[str]]) -> None:
    if values.get("data.group") or values.get("data.run"):
        return
    if seen.recordings > 1:
        remarks["data.group"] = ["Each file is a run. WARNING: where several are of one machine or bearing, say which:"]
        if any("/" in name for name, _ in seen.listing.files):
            remarks["data.group"].append("group = 'file:^([^/]+)/' takes the folder.")
    elif values["task.kind"] == "anomaly":
        values["data.group"] = _block(seen)
        remarks["data.group"] = ["One machine: its time is cut into blocks, first to train, last to test."]
    else:
        remarks["data.group"] = [
            "WARNING: one file and no column that tells machines or runs apart: it cannot be split."
        ]


def _block(seen: Sighted) -> str:
    """Cut a single recording into about twenty blocks of a round length."""
    path = seen.listing.files[0][1]
    target = _rows(path) * seen.step / 20
    if seen.time is None or not seen.time.dated:
        return f"time:{max(1, round(target))}"
    for letter, length, counts in _BLOCKS:
        for number in counts:
            if number * length <= target:
                return f"time:{number}{letter}"
    return "time:30s"


def _rows(path: Path) -> int:
    """Count a file's rows, a CSV file's lines."""
    if kind_of(path) in {".csv", ".tsv", ".txt", ".dat"}:
        with csv_tables.opened(path) as file:
            return max(1, sum(1 for _ in file))
    tables = read_tables(path, path.name, Wanted())
    return max([1, *(table.rows for table in tables)]) if not isinstance(tables, str) else 1


def _write(values: Mapping[str, Any], remarks: Mapping[str, list[str]]) -> Iterator[str]:
    tasks: dict[str, type[BaseModel]] = {"classification": FaultTask, "anomaly": AnomalyTask, "regression": RulTask}
    yield from _section(SensorRecipe, "", values, remarks, {"task": tasks[values["task.kind"]]})


def _section(
    model: type[BaseModel],
    prefix: str,
    values: Mapping[str, Any],
    remarks: Mapping[str, list[str]],
    unions: Mapping[str, type[BaseModel]],
) -> list[str]:
    lines: list[str] = []
    deeper: list[str] = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        inner = unions.get(key) or (_optional(field.annotation) if key == "data.events" else field.annotation)
        is_section = isinstance(inner, type) and issubclass(inner, BaseModel)
        above = [f"# {remark}" for remark in remarks.get(key, [])]
        if is_section and (key != "data.events" or values.get(key)):
            section: type[BaseModel] = cast("type[BaseModel]", inner)
            deeper += ["", *above, f"[{key}]", *_section(section, f"{key}.", values, remarks, unions)]
            continue
        if key == "data.channels":
            lines += [f"# {COMMENTS[key]}", "channels = [", *(f"  {toml(row)}," for row in values[key]), "]"]
            continue
        lines += above
        value = values.get(key, field.get_default(call_default_factory=True))
        absent = value is None
        written = f"{name} = {toml(EXAMPLES.get(key, '') if absent else value)}"
        comment = COMMENTS.get(key) or field.description
        lines.append(f"{'# ' if absent else ''}{written}{f'  # {comment}' if comment else ''}")
    return lines + deeper


def _optional(annotation: Any) -> Any:
    return next((part for part in getattr(annotation, "__args__", ()) if part is not type(None)), annotation)


def _opening(seen: Sighted, path: Path) -> list[str]:
    files = count(len(seen.listing.files), "file")
    lines = [
        f"Recipe for {path.name or path}: {files}, {count(len(seen.channels), 'channel')}.",
        "Every key shows its default or what the files suggest. Next: edge-sft check, then edge-sft build.",
    ]
    if seen.time is not None and not seen.time.dated:
        lines.append(f"Time is '{seen.time.name}', a number: everything in its unit, also where a key says _s.")
    return ["".join(c if c.isprintable() else "?" for c in line) for line in [*lines, *seen.listing.notes]]


def _written(path: Path, here: Path | None) -> str:
    full = path.resolve()
    if here is not None and full.is_relative_to(here.resolve()):
        return Path(os.path.relpath(full, here.resolve())).as_posix()
    return full.as_posix()

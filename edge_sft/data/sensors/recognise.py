"""Looking at somebody's file or folder of rows: which column is the time, the machine, the label, the channels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.sensors import times
from edge_sft.data.sensors.csv_tables import peek
from edge_sft.data.sensors.listing import Listing
from edge_sft.data.sensors.tables import NOTHING, kind_of, number

_LOOK = 12  # files looked at
_ROWS = 400  # of each
_NO_ROWS = "has a header but no rows"
_NAMES: dict[str, str] = {  # roles by what a column's name is, or ends or begins with; first match counts
    "time": "timestamp|datetime|date_?time|time|date|zeit|zeitstempel|uhrzeit|datum|horodatage|fecha|hora|cycle|cycles|"
    "time_?in_?cycles|t|ts|epoch|seconds|elapsed",
    "rul": "rul|remaining_?useful_?life|remaining_?life|ttf|time_?to_?failure",
    "label": "label|class|fault|fault_?type|machine_?failure|anomaly|is_?anomaly|anomalous|target|failure|condition|"
    "health|state|"
    "klasse|fehler|machine_?status|status",
    "run": "unit|unit_?(?:nr|number|id)|engine|engine_?id|run|run_?id|trajectory|experiment|batch|recording|id",
    "group": "machine|machine_?id|machine_?name|asset|asset_?id|bearing|bearing_?id|pump|motor|serial|"
    "serial_?(?:no|number)|device|device_?id|equipment|maschine|anlage|turbine|turbine_?id",
    "channel": "channel|sensor|sensor_?(?:id|name)|tag|tag_?name|signal|variable|measurement|metric|kanal|parameter",
    "value": "value|val|reading|wert|measurement_?value",
    "condition": r"op_?\d|op_?setting_?\d|setting_?\d|speed|rpm|drehzahl|load|last|setpoint|sollwert|mode|"
    r"rotational.*speed.*",
    "kind": "kind|type|event|event_?type|failure_?mode|fault|description|code|art|activity",
    "extra": r"index|row|row_?(?:id|number)|nr|no|changepoint|unnamed.*|column \d+|udi|product.*",
}
_UNIT = re.compile(r"^(.*?)[\s_]*[\[(]\s*([^\])]{0,16})\s*[\])]\s*$")
_EVENT_FILES = re.compile(r"fail|event|mainten|repair|work_?order|log|stoer|ausfall", re.IGNORECASE)


@dataclass(frozen=True)
class Column:
    """One column as its first rows show it."""

    name: str
    cells: tuple[str, ...] = field(repr=False, default=())
    unit: str = ""

    @property
    def filled(self) -> list[str]:
        """Cells that hold something."""
        return [cell for cell in self.cells if cell.strip().lower() not in NOTHING]

    @property
    def numeric(self) -> bool:
        """Whether nearly all that it holds is numbers."""
        filled = self.filled
        return bool(filled) and sum(number(cell) is not None for cell in filled) >= 0.9 * len(filled)

    @property
    def dated(self) -> bool:
        """Whether what it holds is dates or times of day with a date."""
        filled = self.filled[:50]
        if not filled or self.numeric:
            return False
        return bool(np.isfinite(times.parse(np.array(filled, dtype=object))).mean() > 0.9)

    @property
    def distinct(self) -> list[str]:
        """Its different cells, in order of appearance."""
        return list(dict.fromkeys(self.filled))

    def means(self, role: str) -> bool:
        """Tell by its name whether it plays a role."""
        return re.fullmatch(_NAMES[role], self.name.strip().casefold().replace(" ", "_").replace("-", "_")) is not None


@dataclass(frozen=True)
class Sighted:
    """What a folder seems to hold. Fields are as in `SensorData`; ``None`` where nothing was recognised."""

    listing: Listing
    columns: tuple[Column, ...]
    time: Column | None = None
    rul: Column | None = None
    label: Column | None = None
    run: Column | None = None
    group: Column | None = None
    conditions: tuple[Column, ...] = ()
    channels: tuple[Column, ...] = ()
    long: tuple[Column, Column] | None = None
    by_sensor: bool = False
    folders: tuple[str, ...] = ()
    events: tuple[Path, Column, Column, Column | None] | None = None
    step: float = 1.0
    recordings: int = 1


def sight(listing: Listing) -> Sighted | str:
    """Look at the first files of a listing; text says why nothing can be recognised."""
    seen: list[list[Column]] = []
    events = None
    reason = "holds no table"
    spread = listing.files[:: max(1, len(listing.files) // _LOOK)]
    for name, path in spread:
        found = _columns(path)
        if isinstance(found, str):
            reason = f"{name} {found}"
            continue
        log = _as_events(path, found)
        if log is not None and len(listing.files) > 1:
            events = log
            continue
        seen.append(found)
    if not seen:
        return reason
    columns = _shared(seen)
    if events is not None:
        listing = Listing(listing.root, tuple(f for f in listing.files if f[1] != events[0]), listing.notes)
    return _roles(listing, columns, seen, events)


def _shared(seen: Sequence[Sequence[Column]]) -> list[Column]:
    """Return the columns that most files share, first seen first; files of another kind do not count."""
    known: dict[str, Column] = {}
    counts: Counter[str] = Counter()
    for found in seen:
        counts.update(column.name for column in found)
        for column in found:
            known.setdefault(column.name, column)
    most = max(counts.values())
    core = {name for name, number in counts.items() if number == most}
    kin = [{column.name for column in found} for found in seen if core & {column.name for column in found}]
    each_its_own = all(len(header) == 2 for header in kin)  # the time and one sensor
    shares = {name: sum(name in header for header in kin) / len(kin) for name in known}
    return [column for name, column in known.items() if shares[name] >= 0.5 or (each_its_own and shares[name] > 0)]


def with_unit(column: Column) -> tuple[str, str]:
    """Return a column's name without its unit, and the unit: ``Temp [°C]``, ``Druck (bar)``, or a row of units."""
    match = _UNIT.match(column.name)
    if match and match.group(1).strip():
        return match.group(1).strip(), match.group(2).strip()
    return column.name, column.unit


def _columns(path: Path) -> list[Column] | str:
    if kind_of(path) in {".csv", ".tsv", ".txt", ".dat"}:
        found = peek(path)
        if isinstance(found, str):
            return found
        shape, rows = found
        if not rows:
            return _NO_ROWS
        cells = list(zip(*rows, strict=True)) if rows else [()] * len(shape.header)
        return [Column(h, tuple(c), shape.units.get(h, "")) for h, c in zip(shape.header, cells, strict=True)]
    return _array_columns(path)


def _array_columns(path: Path) -> list[Column] | str:
    from edge_sft.data.sensors.array_tables import peek_parquet
    from edge_sft.data.sensors.tables import Wanted, read_tables

    if kind_of(path) == ".parquet":
        peeked = peek_parquet(path, _ROWS)
        if isinstance(peeked, str) or not peeked.rows:
            return peeked if isinstance(peeked, str) else _NO_ROWS
        return [Column(name, _shown(cells)) for name, cells in peeked.columns.items()]
    # a name that no array has shows what there is: recordings of numbered columns, or a header
    tables = read_tables(path, path.name, Wanted(numbers=tuple(str(i) for i in range(1, 513))))
    if isinstance(tables, str):
        return tables
    header = list(dict.fromkeys(name for table in tables for name in table.header))
    keys = [table.name.removeprefix(f"{path.name}/") for table in tables]
    same = len({table.rows for table in tables}) == 1 and header == ["1"]
    if same and any(Column(key).means(role) for key in keys for role in ("time", "run", "group", "rul", "label")):
        header = keys  # arrays of one length, one of them called like a time or a machine: columns
    named = read_tables(path, path.name, Wanted(numbers=tuple(header)))
    table = tables[0] if isinstance(named, str) else named[0]
    return [Column(name, _shown(table.columns[name]) if name in table.columns else ()) for name in header]


def _shown(cells: NDArray[Any]) -> tuple[str, ...]:
    return tuple(str(cell) for cell in cells[:_ROWS].tolist())


def _roles(
    listing: Listing,
    columns: Sequence[Column],
    seen: Sequence[Sequence[Column]],
    events: tuple[Path, Column, Column, Column | None] | None,
) -> Sighted:
    time = next((c for c in columns if c.dated), None) or next(
        (c for c in columns if c.means("time") and c.numeric and _rising(c)), None
    )
    left = [c for c in columns if c is not time and not c.dated]

    def take(role: str, *, numeric: bool | None = None) -> Column | None:
        found = next((c for c in left if c.means(role) and (numeric is None or c.numeric == numeric)), None)
        if found is not None:
            left.remove(found)
        return found

    channel = take("channel", numeric=False)
    value = take("value", numeric=True) if channel is not None else None
    if channel is not None and value is None:
        left.append(channel)
    long = (channel, value) if channel is not None and value is not None else None
    rul, group, run = take("rul", numeric=True), take("group"), take("run")
    label = take("label")
    left = [c for c in left if not c.means("extra")]
    channels = tuple(c for c in left if c.numeric)
    return Sighted(
        listing=listing,
        columns=tuple(columns),
        time=time,
        rul=rul,
        label=label,
        run=run,
        group=group,
        conditions=tuple(c for c in channels if c.means("condition")),
        channels=tuple(Column(name) for name in long[0].distinct) if long else channels,
        long=long,
        by_sensor=_by_sensor([[c.name for c in found] for found in seen], time, channels),
        folders=tuple(sorted({name.rpartition("/")[0] for name, _ in listing.files})),
        events=events,
        step=_step(time, [one for one in (run, group, long[0] if long else None) if one is not None]),
        recordings=len(listing.files) if len(listing.files) > 1 else _recordings(listing.files[0][1]),
    )


def _recordings(path: Path) -> int:
    if kind_of(path) not in {".npz", ".mat"}:
        return 1
    from edge_sft.data.sensors.tables import Wanted, read_tables

    tables = read_tables(path, path.name, Wanted(numbers=("1",)))
    return 1 if isinstance(tables, str) else len(tables)


def _rising(column: Column) -> bool:
    values = [value for cell in column.filled if (value := number(cell)) is not None]
    steps = np.diff(values)
    return bool((steps > 0).any()) and bool((steps >= 0).mean() > 0.9)


def _step(time: Column | None, apart: Sequence[Column]) -> float:
    """Return how far rows lie apart that belong together: of one machine, run and, in long layout, channel."""
    if time is None:
        return 1.0
    moments = times.parse(np.array(time.cells, dtype=object))
    rows: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(zip(*(column.cells for column in apart), strict=False) if apart else [()] * len(moments)):
        rows.setdefault(key, []).append(row)
    steps = np.concatenate([np.diff(moments[of_one]) for of_one in rows.values()] or [np.zeros(0)])
    forward = steps[steps > 0]
    return float(f"{np.median(forward):.6g}") if len(forward) else 1.0


def _by_sensor(seen: Sequence[Sequence[str]], time: Column | None, channels: Sequence[Column]) -> bool:
    """Tell whether each file holds the time and one sensor of its own."""
    if time is None or len(seen) < 2 or any(len(header) != 2 for header in seen):
        return False
    counts = Counter(name for header in seen for name in header if name != time.name)
    return len(counts) > 1 and len(channels) == len(counts)


def _as_events(path: Path, columns: Sequence[Column]) -> tuple[Path, Column, Column, Column | None] | None:
    """Recognise a failure log: a file called so, with a time, a machine and few columns of measurements."""
    if not _EVENT_FILES.search(path.name):
        return None
    time = next((c for c in columns if c.dated), None) or next((c for c in columns if c.means("time")), None)
    machine = next((c for c in columns if c is not time and (c.means("group") or c.means("run"))), None)
    if time is None or machine is None or len(columns) > 12:
        return None
    kind = next((c for c in columns if c not in (time, machine) and c.means("kind") and not c.numeric), None)
    return path, time, machine, kind

"""The failure log: events of machines, as a maintenance system exports them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from edge_sft.data.findings import Finding
from edge_sft.data.sensors import times
from edge_sft.data.sensors.columns import canonical
from edge_sft.data.sensors.tables import Wanted, read_tables
from edge_sft.data.sensors.wording import when
from edge_sft.errors import DataError
from edge_sft.sensor_recipe import EventsSection, SensorRecipe

_SHOWN = 8

Recording = tuple[tuple[str, ...], float, float]


@dataclass(frozen=True)
class Event:
    """Something that happened to a machine; ``failure`` or else a repair, an overhaul, a stop.

    ``machine`` is empty where it is said of every machine; ``until`` is when it ended, where it lasted.
    """

    machine: str
    time: float
    kind: str
    failure: bool
    until: float | None = None


def read_events(recipe: SensorRecipe) -> tuple[Event, ...]:
    """Read a recipe's failure log, sorted by machine and time; empty where it names none.

    Raises:
        DataError: It cannot be read, lacks a column, or none of its times can be read.
    """
    section = recipe.data.events
    if section is None:
        return ()
    path = Path(section.path)
    texts = tuple(column for column in (section.group, section.kind) if column)
    if not path.is_file():
        raise DataError(str(path), "does not exist", "Check data.events.path in the recipe.")
    clocks = tuple(column for column in (section.time, section.until) if column)
    tables = read_tables(path, path.name, Wanted(texts=texts, times=clocks))
    if isinstance(tables, str):
        raise DataError(str(path), tables, "The failure log is a table: a time, a machine and a kind of event a row.")
    table = tables[0]
    for column in (*clocks, *texts):
        if column not in table.columns:
            known = ", ".join(f"'{name}'" for name in table.header)
            raise DataError(str(path), f"has no column '{column}'; it has {known}", "Name it in [data.events].")
    moments = times.parse(table.columns[section.time], recipe.data.time_format, recipe.window.period_s)
    if table.rows and not np.isfinite(moments).any():
        raise DataError(str(path), f"has no readable time in column '{section.time}'", "Write times as in the data.")
    until: Sequence[float | None] = [None] * table.rows
    if section.until is not None:
        until = times.parse(table.columns[section.until], recipe.data.time_format, recipe.window.period_s).tolist()
    machines = [canonical(cell) for cell in table.columns[section.group]] if section.group else [""] * table.rows
    kinds = [""] * table.rows if section.kind is None else [cell.strip() for cell in table.columns[section.kind]]
    events = [
        Event(machine, float(at), kind, not section.failures or section.kind is None or kind in section.failures, end)
        for machine, at, kind, end in zip(machines, moments, kinds, until, strict=True)
        if np.isfinite(at)
    ]
    # of two in the same minute the failure ends the life, not the repair that was booked with it
    return tuple(sorted(events, key=lambda event: (event.machine, event.time, not event.failure)))


def by_machine(events: Iterable[Event]) -> dict[str, list[Event]]:
    """Gather events by machine, in time order."""
    found: dict[str, list[Event]] = {}
    for event in events:
        found.setdefault(event.machine, []).append(event)
    return found


def judge(
    recipe: SensorRecipe,
    events: Sequence[Event],
    recordings: Sequence[Recording],
) -> list[Finding]:
    """Compare the log with the recordings: unknown machines, machines without events, times that do not meet.

    Args:
        recipe: For names in messages.
        events: The log.
        recordings: Every recording's names, the usual one first, and its first and last time.

    Raises:
        DataError: No machine of the log is known, or a kind in ``data.events.failures`` never occurs.
    """
    section = recipe.data.events
    if section is None:
        return []
    _require_kinds(section, events)
    logged = by_machine(event for event in events if event.machine)
    known = _known(recordings)
    unknown = [machine for machine in logged if machine not in known]
    if logged and len(unknown) == len(logged):
        usual = list(dict.fromkeys(names[0] for names, _, _ in recordings))
        raise DataError(
            section.path,
            f"names no machine of the recordings: it says {_names(unknown)}, they are {_names(usual)}",
            f"Write the recordings' names in column '{section.group}', or set data.group so that they agree.",
        )
    found = _unknown(unknown, logged, known)
    if section.group and section.until is None:
        found += _silent(logged, recordings)
    return [*found, *(_far(logged, known) or _beyond(logged, known)), *_twice(events)]


def _require_kinds(section: EventsSection, events: Sequence[Event]) -> None:
    kinds = sorted({event.kind for event in events})
    absent = [kind for kind in section.failures if section.kind and kind not in kinds]
    if absent and not any(event.failure for event in events):
        fact = f"has no event of kind {_names(absent)}; it has {_names(kinds)}"
        raise DataError(section.path, fact, "Mend failures.")


def _unknown(
    unknown: Sequence[str], logged: Mapping[str, Sequence[Event]], known: Mapping[str, tuple[float, float]]
) -> list[Finding]:
    """Name machines of the log that were never recorded, and what the first of them may have meant."""
    if not unknown:
        return []
    near = [(name, close[0]) for name in unknown if (close := _similar(name, known))]
    hint = f" Did '{near[0][0]}' mean '{near[0][1]}'?" if near else ""
    count = sum(len(logged[name]) for name in unknown)
    text = (
        f"The failure log names {_number(len(unknown), 'machine')} without recordings ({_names(unknown)}); "
        f"{_number(count, 'event')} of {'it tells' if count == 1 else 'theirs tell'} nothing."
    )
    remedy = f"Correct the names, or add the recordings.{hint}"
    return [Finding("warning", "unknown-machine", text, remedy, tuple(unknown))]


def _silent(logged: Mapping[str, Sequence[Event]], recordings: Sequence[Recording]) -> list[Finding]:
    """Name machines that were recorded and are not in the log."""
    silent = list(dict.fromkeys(names[0] for names, _, _ in recordings if not any(name in logged for name in names)))
    if not silent:
        return []
    text = (
        f"{_number(len(silent), 'machine')} without an event in the failure log ({_names(silent)}): "
        "how long they live is only known to be longer than recorded."
    )
    return [Finding("note", "no-event", text, "", tuple(silent))]


def _known(recordings: Sequence[Recording]) -> dict[str, tuple[float, float]]:
    known: dict[str, tuple[float, float]] = {}
    for names, low, high in recordings:
        for name in names:
            before = known.get(name, (low, high))
            known[name] = (min(low, before[0]), max(high, before[1]))
    return known


def _far(logged: Mapping[str, Sequence[Event]], known: Mapping[str, tuple[float, float]]) -> list[Finding]:
    """Notice a log in another unit or clock: all events of all machines lie outside their recordings."""
    told = [(event, known[name]) for name, events in logged.items() if name in known for event in events]
    if not told:
        return []
    widths = [high - low for _, (low, high) in told]
    slack = max(widths) if widths else 0.0
    outside = [event for event, (low, high) in told if event.time < low - slack or event.time > high + slack]
    if len(outside) < len(told):
        return []
    event, (low, high) = told[0]
    return [
        Finding(
            "error",
            "log-times",
            f"No event of the failure log lies near its machine's recordings, for example {event.machine}: "
            f"{when(event.time)}, recorded from {when(low)} to {when(high)}.",
            "Bring the log's times into the unit and the clock of the data's time column.",
        )
    ]


def _beyond(logged: Mapping[str, Sequence[Event]], known: Mapping[str, tuple[float, float]]) -> list[Finding]:
    """Name failures from before a machine was recorded, and those so long after its last row that life is guessed."""
    told = [(event, known[name]) for name, found in logged.items() if name in known for event in found if event.failure]
    early = [(event, low) for event, (low, _) in told if event.time < low and event.until is None]
    late = [(event, high) for event, (low, high) in told if event.time - high > max(high - low, 0.0) > 0.0]
    found = []
    if early:
        event, low = early[0]
        text = (
            f"{_number(len(early), 'failure')} lie{'s' if len(early) == 1 else ''} before the machine's first row and "
            f"tell{'s' if len(early) == 1 else ''} nothing, for example {event.machine}: {when(event.time)}, recorded "
            f"from {when(low)} on."
        )
        found.append(Finding("note", "early-event", text, "", tuple(dict.fromkeys(e.machine for e, _ in early))))
    if late:
        event, high = late[0]
        text = (
            f"{_number(len(late), 'failure')} long after the machine's last row, for example {event.machine}: "
            f"{when(event.time)}, recorded until {when(high)}. The time between counts as life without a look at it."
        )
        remedy = "Are recordings missing, or is it another machine's failure?"
        found.append(Finding("warning", "late-event", text, remedy, tuple(dict.fromkeys(e.machine for e, _ in late))))
    return found


def _twice(events: Sequence[Event]) -> list[Finding]:
    """Name events of a machine at the very same time; the first failure of them counts."""
    times = [(event.machine, event.time) for event in events]
    twice = [event for event, before, now in zip(events[1:], times, times[1:], strict=False) if before == now]
    if not twice:
        return []
    event = twice[0]
    text = (
        f"{_number(len(twice), 'event')} of the failure log at the same time as another of the machine, for example "
        f"{event.machine or 'all machines'} at {when(event.time)}; one of them counts, a failure before others."
    )
    return [Finding("note", "event-twice", text, "", tuple(dict.fromkeys(event.machine for event in twice)))]


def _similar(name: str, known: Mapping[str, tuple[float, float]]) -> list[str]:
    plain = {"".join(c for c in one.casefold() if c.isalnum()).replace("0", ""): one for one in known}
    mine = "".join(c for c in name.casefold() if c.isalnum()).replace("0", "")
    if mine in plain:
        return [plain[mine]]
    alike = [one for one in known if _digits(one) == _digits(name)]  # pump 7 is not a misspelt pump 2
    return get_close_matches(name, alike, n=1, cutoff=0.7)


def _digits(name: str) -> str:
    return "".join(c for c in name if c.isdigit()).lstrip("0")


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name[:60]}'" for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"

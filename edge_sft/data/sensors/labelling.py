"""What each row is called and how long it has to live: from columns, file names or the failure log. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.sensors.columns import unbroken
from edge_sft.data.sensors.events import Event
from edge_sft.data.sensors.tables import Column
from edge_sft.data.sensors.wording import names
from edge_sft.data.words import means_good
from edge_sft.errors import DataError, UserError
from edge_sft.sensor_recipe import FaultTask, RulTask, SensorRecipe

ANOMALY_LABELS = ("normal", "anomaly")
HEALTHY = frozenset({"0", "false", "no", "off", "n"})
UNHEALTHY = frozenset({"1", "true", "yes", "on", "y"})


@dataclass(frozen=True)
class Record:
    """A run before it has a side.

    ``told`` holds labels as written; ``ended`` is the event that ended it; ``short`` is what people call it in a log:
    the run's own name, or the file's without folder and suffix.
    """

    id: str
    group: str
    asset: str
    sha256: str
    time: NDArray[np.float64] = field(repr=False)
    values: NDArray[np.float64] = field(repr=False)
    told: Column | None = field(default=None, repr=False)
    rul: NDArray[np.float64] | None = field(default=None, repr=False)
    labels: NDArray[np.int64] | None = field(default=None, repr=False)
    ended: Event | None = None
    failed: bool = True
    short: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that a log may use for it, the one that people would use first."""
        return tuple(dict.fromkeys(name for name in (self.short, self.asset, self.group) if name))

    def rows(self, keep: NDArray[np.intp]) -> Record:
        """Return these rows of it, given in order; rows without a gap lie in memory once."""
        some = unbroken(keep)
        return replace(
            self,
            time=self.time[some],
            values=self.values[some],
            told=None if self.told is None else self.told[some],
            rul=None if self.rul is None else self.rul[some],
            labels=None if self.labels is None else self.labels[some],
        )


def at_events(record: Record, events: Sequence[Event]) -> Iterator[Record]:
    """Cut a record at its machine's events; the event that ends a piece is the first at or after its rows."""
    if not events:
        yield replace(record, ended=None, failed=False)
        return
    moments = np.array([event.time for event in events])
    piece = np.searchsorted(moments, record.time, side="left")
    held = np.unique(piece)
    for number, which in enumerate(held, start=1):
        ended = events[which] if which < len(events) else None
        cut = record.rows(np.flatnonzero(piece == which)) if len(held) > 1 else record
        name = f"{record.id}@{number}" if len(held) > 1 else record.id
        yield replace(cut, id=name, ended=ended, failed=ended is not None and ended.failure)


def with_rul(record: Record, recipe: SensorRecipe) -> Record:
    """Add remaining life: the column's, else up to the failure that ended it, else counted down to the last row.

    A run that did not end in a failure has none: it is only known to have lived longer.
    """
    if not isinstance(recipe.task, RulTask):
        return replace(record, rul=None)
    if record.rul is not None:
        return replace(record, failed=True)
    section = recipe.data.events
    if section is None:
        return replace(record, rul=record.time.max() - record.time, failed=True)
    if section.until is not None:
        fact = "marks stretches of time, not failures that end a life"
        raise UserError("data.events.until", fact, "Leave it out to count remaining life down to data.events.time.")
    if not record.failed or record.ended is None:
        return replace(record, rul=None, failed=False)
    return replace(record, rul=record.ended.time - record.time)


def with_labels(record: Record, events: Sequence[Event], recipe: SensorRecipe) -> Record:
    """Add label indices: from the labels as written, else from the failure log and its horizon.

    Raises:
        DataError: Labels that the recipe does not know.
        UserError: The recipe says neither where labels are nor how to derive them.
    """
    if isinstance(recipe.task, RulTask):
        return record
    if record.told is not None:
        return replace(record, labels=_indices(record, recipe))
    section = recipe.data.events
    if section is not None and section.until is not None:
        return replace(record, labels=_within(record, events, recipe, section.horizon or 0.0))
    if section is not None and section.horizon is not None:
        return replace(record, labels=_pre_failure(record, recipe, section.horizon))
    if isinstance(recipe.task, FaultTask):
        if section is not None:
            raise UserError("data.events.horizon", "is missing", "Say how long before a failure counts as its label.")
        raise UserError("data.label", "is missing", "Name the column of labels, or write file:REGEX for file names.")
    return record


def _indices(record: Record, recipe: SensorRecipe) -> NDArray[np.int64]:
    assert record.told is not None
    told = list(dict.fromkeys(record.told.tolist()))
    if isinstance(recipe.task, FaultTask):
        _refuse_unknown([name for name in told if name.strip() and name not in recipe.task.labels], record, recipe.task)
    places = {name: _index(name, record.id, recipe) for name in told}
    if len(told) == 1:  # a label by file name, over millions of rows
        return np.full(len(record.told), places[told[0]], dtype=np.int64)
    return np.array([places[name] for name in record.told.tolist()], dtype=np.int64)


def _index(name: str, record: str, recipe: SensorRecipe) -> int:
    if not name.strip():
        return -1
    if isinstance(recipe.task, FaultTask):
        return recipe.task.labels.index(name)
    plain = name.strip().casefold()
    if plain in HEALTHY or means_good(plain):
        return 0
    if plain in UNHEALTHY or any(word in plain for word in ("anomal", "fault", "fail", "defect", "broken", "nok")):
        return 1
    fact = f"has the label '{name[:60]}', which is neither a healthy nor an unhealthy word"
    raise DataError(record, fact, "For anomalies write 0 and 1, or normal and anomaly.")


def _refuse_unknown(unknown: Sequence[str], record: Record, task: FaultTask) -> None:
    if unknown:
        fact = f"has labels that the recipe does not know: {names(unknown)}; it knows {names(task.labels, 20)}"
        raise DataError(record.id, fact, "Add them to task.labels, or mend the data.")


def _pre_failure(record: Record, recipe: SensorRecipe, horizon: float) -> NDArray[np.int64]:
    failure = record.ended if record.failed else None
    healthy, coming = _meaning(record, failure, recipe)
    labels = np.full(len(record.time), healthy, dtype=np.int64)
    if failure is not None:
        labels[failure.time - record.time <= horizon] = coming
    else:  # what comes after the last row, or would have come without the repair, is not known
        end = record.time.max() if record.ended is None else record.ended.time
        labels[end - record.time <= horizon] = -1
    return labels


def _within(record: Record, events: Sequence[Event], recipe: SensorRecipe, horizon: float) -> NDArray[np.int64]:
    """Label the rows of stretches that the log marks, and those up to ``horizon`` before them."""
    labels = np.full(len(record.time), _meaning(record, None, recipe)[0], dtype=np.int64)
    for event in events:
        if event.failure and event.until is not None:
            inside = (record.time >= event.time - horizon) & (record.time <= event.until)
            labels[inside] = _meaning(record, event, recipe)[1]
    return labels


def _meaning(record: Record, failure: Event | None, recipe: SensorRecipe) -> tuple[int, int]:
    """Return the label of healthy rows and that of rows which a failure concerns."""
    if not isinstance(recipe.task, FaultTask):
        return 0, 1
    labels, ok = recipe.task.labels, recipe.task.ok
    if len(ok) != 1:
        raise UserError("task.ok", "must name one label", "It is what rows are called that no failure follows.")
    faults = [label for label in labels if label not in ok]
    kind = "" if failure is None else failure.kind
    if kind in labels:
        return labels.index(ok[0]), labels.index(kind)
    if len(faults) == 1 or failure is None:
        return labels.index(ok[0]), labels.index(faults[0])
    raise DataError(
        recipe.data.events.path if recipe.data.events else record.id,
        f"has a failure of kind '{kind}', which is none of the labels {list(faults)}",
        "Name the failures like the labels (data.events.kind says in which column), or have one label for them all.",
    )

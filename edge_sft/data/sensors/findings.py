"""SensorFindings: what `check` found out about sensor data, as values. The command line says them, the page shows them.

Kinds of `Finding` here, stable words for links and tests: ``unreadable``, ``missing-channel``, ``renamed-channel``,
``no-number``, ``no-time``, ``no-group``, ``broken-rows``, ``unknown-machine``, ``no-event``, ``log-times``,
``clock-jump``, ``clock-unset``, ``gap``, ``period``, ``same-time``, ``short-run``, ``dead``, ``stuck``, ``nothing``,
``outside``, ``code``, ``unit``, ``twin``, ``machines``, ``label``, ``confounded``, ``life``, ``left-out``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_sft.data.dataset import Quarantined, SplitName
from edge_sft.data.findings import Finding, Severity


@dataclass(frozen=True)
class Sketch:
    """A channel over one run, small enough to draw.

    ``lows`` and ``highs`` are the smallest and largest value in equal stretches of rows between the times ``start``
    and ``end``; NaN where there was none.
    """

    run: str
    start: float
    end: float
    lows: tuple[float, ...]
    highs: tuple[float, ...]


@dataclass(frozen=True)
class ChannelSummary:
    """One channel over all runs.

    Attributes:
        name: The channel's.
        unit: The recipe's.
        condition: Whether it tells how the machine is run.
        present: Share of the rows that have a value.
        smallest: Of all values; NaN where there is none, as in the next four.
        low: 1st percentile.
        median: 50th percentile.
        high: 99th percentile.
        largest: Of all values.
        runs_without: Runs in which it has no value at all.
        sketch: How it looks in the longest run that has it.
        words: Kinds of findings that name it.
    """

    name: str
    unit: str
    condition: bool
    present: float
    smallest: float
    low: float
    median: float
    high: float
    largest: float
    runs_without: int
    sketch: Sketch | None
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class SideCount:
    """What lies on one side of the split."""

    side: SplitName
    groups: int
    runs: int
    rows: int


@dataclass(frozen=True)
class LabelRows:
    """Rows of one label on each side, and from how many groups."""

    label: str
    rows: Mapping[SplitName, int]
    groups: Mapping[SplitName, int]


@dataclass(frozen=True)
class SensorFindings:
    """Everything `check_sensors` found.

    Attributes:
        name: The recipe's name.
        root: The data folder.
        rows: Rows that can be used.
        runs: Runs that they form.
        groups: Machines, bearings or runs that stay on one side.
        findings: In words: errors first, then warnings, then notes.
        channels: In the recipe's order.
        sides: train, val, test.
        labels: Rows a label, where there are labels.
        quarantined: Files left out, and why.
        fingerprint: Of the data set.
        test_fingerprint: Of its test split.
    """

    name: str
    root: Path
    rows: int
    runs: int
    groups: int
    findings: tuple[Finding, ...]
    channels: tuple[ChannelSummary, ...] = ()
    sides: tuple[SideCount, ...] = ()
    labels: tuple[LabelRows, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    fingerprint: str = ""
    test_fingerprint: str = ""

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    @property
    def has_errors(self) -> bool:
        """Whether something should be mended before training."""
        return bool(self.of("error"))

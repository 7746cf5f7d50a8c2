"""Findings: what `check` found out about a Dataset, as values. The command line says them, the HTML page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edge_sft.data.dataset import Quarantined, SplitName

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing, in words.

    Attributes:
        severity: ``error``: train only after mending it; ``warning``: look at it; ``note``: good to know.
        kind: What it is about, a stable word for links and tests: ``unreadable``, ``exact-duplicates``,
            ``near-duplicates``, ``leak``, ``conflicting-labels``, ``balance``, ``too-few-defects``, ``size``,
            ``brightness``, ``contrast``, ``focus``, ``format``, ``group``, ``suspicious``, ``left-out``.
        text: One sentence: the thing and the fact.
        remedy: One sentence: what to do; may be empty for a note.
        ids: Pictures it is about, the most telling first.
    """

    severity: Severity
    kind: str
    text: str
    remedy: str = ""
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelCount:
    """One row of the balance table; ``good`` is false for all labels where the task is sorting."""

    label: str
    good: bool
    counts: Mapping[SplitName, int]

    @property
    def total(self) -> int:
        """Pictures of this label over all splits."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Format:
    """Pictures of one kind of file content; sizes are pixels."""

    width: int
    height: int
    channels: int
    bits: int
    count: int


@dataclass(frozen=True)
class Spread:
    """How one image statistic is spread over the pictures.

    ``name`` is ``width``, ``height``, ``brightness``, ``contrast`` or ``focus``; ``low`` and ``high`` are the 1st
    and 99th percentile; ``histogram`` has the counts of equal bins between the smallest and largest value;
    ``outliers`` are (id, value), the farthest out first.
    """

    name: str
    unit: str
    low: float
    median: float
    high: float
    smallest: float
    largest: float
    histogram: tuple[int, ...]
    outliers: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Lookalikes:
    """Pictures that are the same (``exact``) or nearly so; the tuples go together one to one."""

    exact: bool
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[SplitName, ...]

    @property
    def conflicting(self) -> bool:
        """Whether they do not all have the same label."""
        return len(set(self.labels)) > 1

    @property
    def leaking(self) -> bool:
        """Whether they lie in more than one split."""
        return len(set(self.splits)) > 1


@dataclass(frozen=True)
class Suspicion:
    """A picture whose label a trained model doubts; probabilities are of the checkpoint's model."""

    id: str
    split: str
    label: str
    predicted: str
    probability_of_label: float
    probability_of_predicted: float


@dataclass(frozen=True)
class Findings:
    """Everything `check` found.

    Attributes:
        name: The recipe's name.
        root: The data folder.
        count: Pictures that can be used.
        findings: In words: errors first, then warnings, then notes.
        balance: One row a label, in the order of the labels.
        formats: Kinds of file content, the most frequent first.
        spreads: Image statistics.
        lookalikes: Exact and near duplicates; conflicting and leaking ones first.
        suspicious: Labels that a model doubts, the most doubtful first; empty without a checkpoint.
        quarantined: Files left out, and why.
        fingerprint: Of the data set.
        test_fingerprint: Of its test split, for ``data.split.frozen_test``.
        paths: Where the pictures named anywhere here lie on this machine, by id.
    """

    name: str
    root: Path
    count: int
    findings: tuple[Finding, ...]
    balance: tuple[LabelCount, ...] = ()
    formats: tuple[Format, ...] = ()
    spreads: tuple[Spread, ...] = ()
    lookalikes: tuple[Lookalikes, ...] = ()
    suspicious: tuple[Suspicion, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    fingerprint: str = ""
    test_fingerprint: str = ""
    paths: Mapping[str, Path] = field(default_factory=dict, repr=False)

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    @property
    def has_errors(self) -> bool:
        """Whether something should be mended before training."""
        return bool(self.of("error"))

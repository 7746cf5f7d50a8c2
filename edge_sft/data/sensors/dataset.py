"""SensorDataset: runs of rows + labels + groups + content fingerprint, already split. Readers build it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.dataset import Quarantined, SplitName
from edge_sft.data.findings import Finding


@dataclass(frozen=True)
class Run:
    """One unbroken recording of one machine.

    Attributes:
        id: What people see: file, or file and run.
        group: What must not straddle two splits (machine, bearing, engine).
        asset: Name of the machine.
        split: Which split it belongs to.
        time: Time column in the recipe's unit, float64 [n], not necessarily regular or rising.
        values: float64 [n, C] in the recipe's channel order and units, NaN where a value is missing.
        labels: Index into the dataset's labels for each row, int64 [n], -1 = unknown; None where there are none.
        rul: Remaining life at each row, float64 [n], not capped; None where unknown.
        sha256: SHA-256 of the file's content (and the run's name, where a file holds several).
        failed: Whether the run ended in a failure (else its life is only known to be longer).
    """

    id: str
    group: str
    asset: str
    split: SplitName
    time: NDArray[np.float64] = field(repr=False, compare=False)
    values: NDArray[np.float64] = field(repr=False, compare=False)
    labels: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)
    rul: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)
    sha256: str = ""
    failed: bool = True

    def newest(self, ends: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return for each time [m] the row that is newest without being later (the oldest row where all are later).

        Rows without a time are never chosen.
        """
        usable = np.flatnonzero(np.isfinite(self.time))
        order = usable[np.argsort(self.time[usable], kind="stable")]
        place = np.searchsorted(self.time[order], ends, side="right") - 1
        return np.asarray(order[np.maximum(place, 0)], dtype=np.int64)


@dataclass(frozen=True)
class SensorDataset:
    """Everything a training needs to know about the rows; ``runs`` are sorted by id.

    For anomaly detection ``labels`` are ``("normal", "anomaly")`` where rows are labelled at all. ``findings`` are
    what reading the files told; `edge_sft.data.sensors.checking.check_sensors` adds what the rows tell. ``partial``
    says that labels without a run are no mistake: it is a site of a federation, and others have them.
    """

    root: Path
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    runs: tuple[Run, ...]
    quarantined: tuple[Quarantined, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)
    findings: tuple[Finding, ...] = field(default=(), compare=False)
    partial: bool = field(default=False, compare=False)

    def split(self, name: SplitName) -> tuple[Run, ...]:
        """Return the runs of one split, sorted by id."""
        return tuple(run for run in self.runs if run.split == name)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over (content, group, split) of all runs; independent of where and in what order they lie."""
        return _fingerprint(self.runs)

    @cached_property
    def test_fingerprint(self) -> str:
        """SHA-256 over the test split."""
        return _fingerprint(self.split("test"))


def _fingerprint(runs: Iterable[Run]) -> str:
    lines = sorted(f"{run.sha256} {run.split} {run.group}" for run in runs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()

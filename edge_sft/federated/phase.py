"""One question to all sites, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_sft.federated.vetting import Update


@dataclass(frozen=True)
class Waiting:
    """How long what is waited for.

    Attributes:
        poll_s: Between two looks for answers.
        join_s: For approved sites that are not there when a run begins.
    """

    poll_s: float = 1.0
    join_s: float = 60.0


@dataclass
class Phase:
    """One question to all sites, and what came of it.

    Attributes:
        kind: The message's type.
        number: The round.
        until: When it is given up, monotonic seconds.
        patient_until: When sites that cannot be asked (offline, still busy) are waited for no more.
        asked: Names of the sites that got the question.
        whole: Names of the sites that said they lack what an update is relative to.
        settled: What came of each site, as it is written into the record.
        updates: Those that were let in, by name.
    """

    kind: str
    number: int
    until: float
    patient_until: float = math.inf
    asked: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    settled: dict[str, dict[str, Any]] = field(default_factory=dict)
    updates: dict[str, Update] = field(default_factory=dict)


def mark(phase: Phase, name: str, status: str, why: str) -> None:
    """Say what became of a site that nothing better is known of."""
    row = phase.settled.setdefault(name, {})
    if "status" not in row:
        row |= {"status": status, "why": why}


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers that are numbers: JSON has no NaN."""
    return {name: value for name, value in metrics.items() if np.isfinite(value)}

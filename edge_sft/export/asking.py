"""What an export asks of a checkpoint before anything is held against its answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_sft.bundle.manifest import GateResult
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.errors import BugError, DataError
from edge_sft.export.yardstick import Yardstick
from edge_sft.progress import Progress


class _Data(Protocol):
    @property
    def root(self) -> Path: ...

    @property
    def fingerprint(self) -> str: ...


def require_same_data(meta: CheckpointMeta, dataset: _Data, checkpoint: Path, *, parts: str, source: str) -> None:
    """Refuse other data than those it was trained on; ``parts`` and ``source`` name them. Raises DataError."""
    if dataset.fingerprint != meta.dataset_fingerprint:
        raise DataError(
            str(checkpoint),
            f"was trained on other {parts} or splits than {dataset.root} holds now",
            f"Give the {source} it was trained on, or train again.",
        )


def require_finite(meta: CheckpointMeta, answers: Iterable[NDArray[np.float32]]) -> None:
    """Refuse a checkpoint that answers with NaN or infinity. Raises DataError."""
    if not all(np.isfinite(array).all() for array in answers):
        raise DataError(
            meta.name, "its checkpoint answers with NaN or infinity", "Train again with a lower learning rate."
        )


def fp32_gate(fp32: Path, reference: Yardstick, progress: Progress) -> GateResult:
    """Hold the fp32 file against the checkpoint it was made from. Raises BugError where they differ."""
    gate = reference.prove("fp32", fp32, progress)
    if not gate.passed:
        raise BugError(str(fp32), f"does not equal the checkpoint ({gate.note})", "Please report this.")
    return gate

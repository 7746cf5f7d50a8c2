"""What a variant is held against: the checkpoint's own answers on validation samples, and how to judge others."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edge_sft.bundle.manifest import GateResult
from edge_sft.profile import VariantName
from edge_sft.progress import Progress


class Yardstick(Protocol):
    """Pictures and sensor windows have one each; the search for an INT8 variant needs to know no more."""

    def few(self, count: int) -> Yardstick:
        """Return one with at most so many samples that stand for all; it only serves `distance`."""
        ...

    def distance(self, model: Path) -> float:
        """Return how far a variant's outputs are from the checkpoint's; infinite for NaN."""
        ...

    def prove(self, variant: VariantName, model: Path, progress: Progress, note: str = "") -> GateResult:
        """Run a variant over all samples and pass or fail it."""
        ...

    def not_made(self, variant: VariantName, why: str) -> GateResult:
        """Name a variant that could not even be made."""
        ...

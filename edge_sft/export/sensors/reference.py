"""What every variant of a sensor model is held against: the checkpoint's own answers on validation windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sft.bundle.golden_scale import output_scale
from edge_sft.bundle.manifest import GateResult
from edge_sft.export import choosing, gating, running
from edge_sft.export.running import Arrays
from edge_sft.export.sensors.windows import Shown, spread
from edge_sft.policy import AnyPolicy
from edge_sft.profile import VariantName
from edge_sft.progress import Progress
from edge_sft.task import Task

_BATCH = 32
# Outputs that decide; the others explain, or serve commissioning.
_DECIDING = ("probabilities", "value", "quantiles", "score")


@dataclass(frozen=True)
class SensorReference:
    """A yardstick of windows.

    Attributes:
        task: What is predicted.
        policy: The default one.
        shown: Validation windows, N of them.
        answers: The checkpoint's outputs on them by name, [N, …].
        tolerance_points: What a variant may lose: percentage points; for remaining life also per cent of the error.
        cap: Beyond it remaining life counts as this; infinity where there is none.
    """

    task: Task
    policy: AnyPolicy
    shown: Shown
    answers: Arrays
    tolerance_points: float
    cap: float = float("inf")

    def few(self, count: int) -> SensorReference:
        """Return one with fewer windows: from the smallest to the largest answer, the classes in turn."""
        chosen = self.choose(count)
        answers = {name: array[chosen] for name, array in self.answers.items()}
        return replace(self, shown=self.shown.take(chosen), answers=answers)

    def choose(self, count: int) -> NDArray[np.int64]:
        """Return positions of at most ``count`` windows that stand for all."""
        first = self.answers[self.task.outputs[0].name]
        if self.task.kind == "classification":
            return np.asarray(choosing.choose(self.shown.label, first, count), dtype=np.int64)
        return np.sort(np.argsort(first, kind="stable")[spread(len(first), count)])

    def distance(self, model: Path) -> float:
        """Return a variant's mean |difference| from the checkpoint, in shares of each deciding output's spread."""
        after = running.outputs(model, self.shown.blocks(_BATCH))
        value = 0.0
        for name, before in self.answers.items():
            if name in _DECIDING:
                value += float(np.abs(after[name] - before).mean() / max(float(before.std()), 1e-6))
        return value if np.isfinite(value) else float("inf")

    def prove(self, variant: VariantName, model: Path, progress: Progress, note: str = "") -> GateResult:
        """Run a variant over all windows and hold it against the checkpoint by the rule of its kind."""
        from edge_sft.export.sensors import kinds

        progress.start(f"Proving {variant}", len(self.shown))
        after = running.outputs(model, self.shown.blocks(_BATCH), progress)
        return kinds.JUDGES[self.task.kind](variant, after, self, note)

    def not_made(self, variant: VariantName, why: str) -> GateResult:
        """Name a variant that could not even be made."""
        return gating.not_made(variant, len(self.shown), self.tolerance_points, why)

    def difference(self, after: Arrays) -> float:
        """Return the largest |difference| of any output in shares of its scale; infinite for NaN."""
        worst = 0.0
        for name, before in self.answers.items():
            apart = float(np.abs(after[name] - before).max()) / output_scale(name, before)
            worst = max(worst, apart) if np.isfinite(apart) else float("inf")
        return worst


Judge = Callable[[VariantName, Arrays, SensorReference, str], GateResult]

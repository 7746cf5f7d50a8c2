"""What every variant of a model that says where is held against: the checkpoint's own answers on validation tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sft.bundle import comparing
from edge_sft.bundle.manifest import GateResult
from edge_sft.export import gating, running
from edge_sft.export.dense.tiles import Tiles
from edge_sft.export.running import Arrays
from edge_sft.policy import PicturePolicy
from edge_sft.profile import VariantName
from edge_sft.progress import Progress
from edge_sft.task import Task

BATCH = 8
FEATURES = "features"

Remember = Callable[[Path, Progress], Arrays]


@dataclass(frozen=True)
class DenseReference:
    """A yardstick of tiles.

    Attributes:
        task: What is predicted.
        policy: The default one.
        shown: Validation tiles, N of them.
        answers: The checkpoint's outputs on them by name, [N,…]; without ``features``.
        local: The graph's local inputs that the answers were given with.
        tolerance_points: What a variant may lose, in percentage points.
        remember: Makes the local inputs that belong to a variant, from its own outputs on good training pictures; None
            where there are none. Rounding moves features, and a memory must be made of what it is compared with.
        made: Local inputs by variant, as far as they were made.
    """

    task: Task
    policy: PicturePolicy
    shown: Tiles
    answers: Arrays
    local: Arrays
    tolerance_points: float
    remember: Remember | None = None
    made: dict[VariantName, Arrays] = field(default_factory=dict)

    def few(self, count: int) -> DenseReference:
        """Return one with fewer tiles, from the lowest to the highest answer."""
        chosen = self.choose(count)
        answers = {name: array[chosen] for name, array in self.answers.items()}
        return replace(self, shown=self.shown.take(chosen), answers=answers)

    def choose(self, count: int) -> NDArray[np.int64]:
        """Return positions of at most ``count`` tiles that stand for all, good and bad alike."""
        good = self.shown.good[self.shown.picture]
        chosen: list[NDArray[np.int64]] = []
        for side in (good, ~good):
            mine = np.flatnonzero(side)
            ordered = mine[np.argsort(self.strength(self.answers)[mine], kind="stable")]
            places = np.linspace(0, len(ordered) - 1, min(-(-count // 2), len(ordered))).round().astype(int)
            chosen.append(ordered[np.unique(places)])
        return np.sort(np.concatenate(chosen))[:count]

    def strength(self, answers: Arrays) -> NDArray[np.float64]:
        """Return one number a tile: how strongly it speaks for a defect."""
        if self.task.kind == "anomaly":
            return np.asarray(answers["score"], dtype=np.float64)
        if self.task.kind == "detection":
            bad = ~np.isin(answers["labels"], [self.task.labels.index(label) for label in self.task.ok_labels])
            return np.asarray((answers["scores"] * bad).max(axis=1), dtype=np.float64)
        return np.asarray(self.defects(answers).max(axis=(1, 2)), dtype=np.float64)

    def defects(self, answers: Arrays) -> NDArray[np.float32]:
        """Return a segmentation's probability of any defect, [N,h,w]."""
        bad = [index for index, label in enumerate(self.task.labels) if label not in self.task.ok_labels]
        return np.asarray(answers["probabilities"][:, bad].sum(axis=1), dtype=np.float32)

    def distance(self, model: Path) -> float:
        """Return a variant's mean |difference| from the checkpoint, in shares of each output's spread."""
        after = running.outputs(model, ({**block, **self.local} for block in self.shown.blocks(BATCH)))
        names = ["probabilities", "scores", "score", "anomaly_map"]
        value = 0.0
        for name in names:
            if name in self.answers:
                before = self.answers[name]
                value += float(np.abs(after[name] - before).mean() / max(float(before.std()), 1e-6))
        return value if np.isfinite(value) else float("inf")

    def prove(self, variant: VariantName, model: Path, progress: Progress, note: str = "") -> GateResult:
        """Run a variant over all tiles, with a memory of its own, and hold it against the checkpoint."""
        from edge_sft.export.dense import kinds

        local = self.local
        if self.remember is not None and variant != "fp32":  # fp32's features are the checkpoint's
            local = self.remember(model, progress)
        self.made[variant] = local
        progress.start(f"Proving {variant}", len(self.shown))
        blocks = ({**block, **local} for block in self.shown.blocks(BATCH))
        after = running.outputs(model, blocks, progress)
        after.pop(FEATURES, None)
        return kinds.JUDGES[self.task.kind](variant, after, self, note)

    def not_made(self, variant: VariantName, why: str) -> GateResult:
        """Name a variant that could not even be made."""
        return gating.not_made(variant, len(self.shown), self.tolerance_points, why)

    def difference(self, after: Arrays) -> float:
        """Return the largest difference of any output in shares of its scale; infinite for NaN."""
        apart = comparing.difference(self.answers, after, comparing.scales(self.answers))
        return apart if np.isfinite(apart) else float("inf")

    def pictures(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the highest value of each picture's tiles, [P]."""
        result = np.full(len(self.shown.good), -np.inf)
        np.maximum.at(result, self.shown.picture, values)
        return result

"""Gates: is a variant as good as the checkpoint it came from? Paired, on the validation split, picture by picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sft.bundle.manifest import GateResult
from edge_sft.export import choosing, running
from edge_sft.export.pictures import Pictures
from edge_sft.metrics.intervals import paired_flips
from edge_sft.policy import Policy
from edge_sft.profile import VariantName
from edge_sft.progress import Progress
from edge_sft.task import Task

Probabilities = NDArray[np.float32]

FP32_MAX_DIFFERENCE = 1e-4  # the same arithmetic twice; 4e-7 to 5e-6 measured
_BATCH = 8


@dataclass(frozen=True)
class Answers:
    """A classification's truth and what its checkpoint says: labels int64 [N], probabilities float32 [N,K]."""

    task: Task
    policy: Policy
    labels: NDArray[np.int64]
    probabilities: Probabilities
    tolerance_points: float


@dataclass(frozen=True)
class Reference:
    """What every variant is held against.

    Attributes:
        task: Labels and tensor names.
        policy: Its threshold turns probabilities into ok or nok.
        pictures: Validation pictures, N of them.
        probabilities: The checkpoint's own on them, float32 [N,K].
        tolerance_points: Net loss a variant may have, in percentage points.
    """

    task: Task
    policy: Policy
    pictures: Pictures
    probabilities: Probabilities
    tolerance_points: float

    def few(self, count: int) -> Reference:
        """Return one with fewer pictures: the classes in turn, from the least to the most confident."""
        chosen = choosing.choose(self.pictures.labels, self.probabilities, count)
        return replace(self, pictures=self.pictures.subset(chosen), probabilities=self.probabilities[chosen])

    def distance(self, model: Path) -> float:
        """Return a variant's mean Kullback-Leibler divergence from the checkpoint's probabilities."""
        return divergence(self.probabilities, infer(model, self.task, self.pictures))

    def prove(self, variant: VariantName, model: Path, progress: Progress, note: str = "") -> GateResult:
        """Run a variant over the pictures and hold it against the checkpoint, as `compare` does."""
        progress.start(f"Proving {variant}", len(self.pictures))
        return compare(variant, infer(model, self.task, self.pictures, progress=progress), self, note)

    @property
    def answers(self) -> Answers:
        """What a variant's probabilities are compared with."""
        return Answers(self.task, self.policy, self.pictures.labels, self.probabilities, self.tolerance_points)

    def not_made(self, variant: VariantName, why: str) -> GateResult:
        """Name a variant that could not even be made."""
        return not_made(variant, len(self.pictures), self.tolerance_points, why)


def infer(
    model: Path, task: Task, pictures: Pictures, *, batch: int = _BATCH, progress: Progress | None = None
) -> Probabilities:
    """Run a variant over pictures; returns probabilities float32 [N,K]. Raises DeviceError when it cannot run."""
    blocks = ({task.inputs[0].name: images} for images in pictures.batches(batch))
    answers = running.outputs(model, blocks, progress)
    return answers[task.outputs[0].name].astype(np.float32)


def not_made(variant: VariantName, samples: int, tolerance_points: float, why: str) -> GateResult:
    """Name a variant that could not even be made."""
    return GateResult(
        variant=variant,
        pictures=samples,
        right_to_wrong=0,
        wrong_to_right=0,
        net_loss_points=0.0,
        right_to_wrong_low=0.0,
        right_to_wrong_high=1.0,
        max_score_difference=1.0,
        tolerance_points=tolerance_points,
        passed=False,
        note=f"could not be made: {why}",
    )


def compare(variant: VariantName, after: Probabilities, reference: Reference, note: str = "") -> GateResult:
    """Hold a variant's probabilities against the checkpoint's, picture by picture; see `judge`."""
    return judge(variant, after, reference.answers, note)


def judge(variant: VariantName, after: Probabilities, reference: Answers, note: str = "") -> GateResult:
    """Hold a variant's probabilities against the checkpoint's.

    It fails on a net loss of right answers (overall, balanced over the classes, or of ok/nok verdicts at the
    policy's threshold) above the tolerance or one picture, whichever is more; on outputs that are not finite; and
    fp32 also on any probability that differs by more than 1e-4. Labels without a sample are named in the note.
    """
    labels, before = reference.labels, reference.probabilities
    finite = bool(np.isfinite(after).all())
    usable = np.nan_to_num(after, nan=-1.0, posinf=-1.0, neginf=-1.0)
    flips = paired_flips(labels, before.argmax(axis=1), usable.argmax(axis=1))
    verdicts = _verdict_flips(before, usable, reference)
    difference = float(np.abs(usable - before).max())
    allowed = max(reference.tolerance_points, 100.0 / len(labels))
    balanced = _balanced(labels, before) - _balanced(labels, usable)
    faults = _faults(variant, finite, difference)
    if flips.net_loss_points > allowed:
        faults.append(f"loses {flips.net_loss_points:.2f} points")
    if 100 * balanced > max(reference.tolerance_points, _one_picture_of_rarest(labels)) + 1e-9:
        faults.append(f"loses {100 * balanced:.2f} points of balanced accuracy")
    if 100.0 * (verdicts[0] - verdicts[1]) / len(labels) > allowed:
        faults.append(f"turns {verdicts[0]} verdicts wrong and {verdicts[1]} right")
    return GateResult(
        variant=variant,
        pictures=len(labels),
        right_to_wrong=flips.right_to_wrong,
        wrong_to_right=flips.wrong_to_right,
        net_loss_points=flips.net_loss_points,
        right_to_wrong_low=flips.right_to_wrong_low,
        right_to_wrong_high=flips.right_to_wrong_high,
        verdicts_right_to_wrong=verdicts[0],
        verdicts_wrong_to_right=verdicts[1],
        max_score_difference=difference,
        tolerance_points=allowed,
        passed=not faults,
        balanced_accuracy=_balanced(labels, usable),
        note="; ".join([*faults, *_unproved(reference), *([note] if note else [])]),
    )


def _unproved(reference: Answers) -> list[str]:
    """Name the labels that no validation sample shows: a gate that passes says nothing of them."""
    shown = set(np.unique(reference.labels).tolist())
    absent = [f"'{label}'" for number, label in enumerate(reference.task.labels) if number not in shown]
    return [f"not proved for {', '.join(absent)}, which no validation sample shows"] if absent else []


def _faults(variant: VariantName, finite: bool, difference: float) -> list[str]:
    faults = [] if finite else ["outputs are not finite"]
    if variant == "fp32" and difference > FP32_MAX_DIFFERENCE:
        faults.append(f"probabilities differ from the checkpoint's by up to {difference:.1e}")
    return faults


def _verdict_flips(before: Probabilities, after: Probabilities, reference: Answers) -> tuple[int, int]:
    """Count verdicts (nok at or above the threshold) that turned wrong and that turned right."""
    task, labels = reference.task, reference.labels
    if not task.defect_labels or not task.ok_labels:
        return 0, 0
    good = [task.labels.index(label) for label in task.ok_labels]
    defect = ~np.isin(labels, good)
    was, now = ((1.0 - p[:, good].sum(axis=1) >= reference.policy.threshold) == defect for p in (before, after))
    return int((was & ~now).sum()), int((~was & now).sum())


def _balanced(labels: NDArray[np.int64], probabilities: Probabilities) -> float:
    right = probabilities.argmax(axis=1) == labels
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def _one_picture_of_rarest(labels: NDArray[np.int64]) -> float:
    """Return what one picture of the rarest class weighs in balanced accuracy, in percentage points."""
    _, counts = np.unique(labels, return_counts=True)
    return float(100.0 / (len(counts) * counts.min()))


def divergence(wanted: Probabilities, outputs: Probabilities) -> float:
    """Return the mean Kullback-Leibler divergence from the checkpoint's probabilities; infinite for NaN."""
    terms = wanted * (np.log(np.maximum(wanted, 1e-9)) - np.log(np.maximum(outputs, 1e-9)))
    value = float(terms.sum(axis=1).mean())
    return value if np.isfinite(value) else float("inf")

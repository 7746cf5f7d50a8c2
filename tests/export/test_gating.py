from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_sft.export.gating import Reference, compare
from edge_sft.export.pictures import Pictures
from edge_sft.policy import Policy
from edge_sft.task import image_classification

LABELS = ("good", "scratch", "stain")


def reference(counts: tuple[int, int, int] = (300, 80, 20), tolerance: float = 0.5) -> Reference:
    """A checkpoint that is right about every picture, with 0.9."""
    labels = np.repeat([0, 1, 2], counts)
    probabilities = np.full((len(labels), 3), 0.05, dtype=np.float32)
    probabilities[np.arange(len(labels)), labels] = 0.9
    pictures = Pictures(np.zeros((len(labels), 1, 1, 3), np.uint8), labels, tuple(map(str, labels)))
    task = image_classification(LABELS, ("good",), 16, 16)
    return Reference(task, Policy(labels=LABELS, ok_labels=("good",)), pictures, probabilities, tolerance)


def turned(ref: Reference, places: list[int], to: int) -> NDArray[np.float32]:
    after = ref.probabilities.copy()
    after[places] = 0.05
    after[places, to] = 0.9
    return after


def test_the_same_numbers_pass() -> None:
    ref = reference()
    gate = compare("int8-cpu", ref.probabilities, ref)
    assert gate.passed
    assert (gate.right_to_wrong, gate.wrong_to_right, gate.net_loss_points) == (0, 0, 0.0)
    assert gate.right_to_wrong_high == pytest.approx(1 - 0.025 ** (1 / 400))
    assert gate.balanced_accuracy == 1.0


def test_a_small_loss_passes_a_larger_one_does_not() -> None:
    ref = reference()
    assert compare("int8-cpu", turned(ref, [0, 1], 1), ref).passed  # 2 of 400 = 0.5 points
    gate = compare("int8-cpu", turned(ref, [0, 1, 2], 1), ref)
    assert not gate.passed
    assert "loses 0.75 points" in gate.note
    assert gate.right_to_wrong == 3


def test_one_picture_is_always_allowed() -> None:
    ref = reference((10, 10, 10))
    assert compare("int8-cpu", turned(ref, [0], 1), ref).passed
    assert not compare("int8-cpu", turned(ref, [0, 1], 1), ref).passed


def test_a_rare_class_cannot_drown_in_a_frequent_one() -> None:
    ref = reference((980, 10, 10))
    gate = compare("int8-cpu", turned(ref, [998, 999], 1), ref)  # 0.2 points overall, a fifth of the stains
    assert not gate.passed
    assert "balanced" in gate.note


def test_verdicts_count_apart_from_labels() -> None:
    ref = reference()
    confused_defects = compare("int8-cpu", turned(ref, [300], 2), ref)  # scratch taken for a stain: still nok
    assert (confused_defects.right_to_wrong, confused_defects.verdicts_right_to_wrong) == (1, 0)
    after = ref.probabilities.copy()
    after[:3] = (0.48, 0.26, 0.26)  # label still good, evidence for a defect 0.52
    gate = compare("int8-cpu", after, ref)
    assert (gate.right_to_wrong, gate.verdicts_right_to_wrong) == (0, 3)
    assert not gate.passed
    assert "verdicts" in gate.note


def test_what_is_not_finite_fails() -> None:
    ref = reference()
    after = ref.probabilities.copy()
    after[7, 1] = np.nan
    gate = compare("fp16", after, ref)
    assert not gate.passed
    assert "not finite" in gate.note
    assert np.isfinite(gate.max_score_difference)


def test_fp32_must_equal_the_checkpoint() -> None:
    ref = reference()
    assert compare("fp32", ref.probabilities + np.float32(5e-5), ref).passed
    assert not compare("fp32", ref.probabilities + np.float32(2e-4), ref).passed
    assert compare("fp16", ref.probabilities + np.float32(2e-4), ref).passed


def test_gains_make_up_for_losses() -> None:
    ref = reference()
    wrong_before = Reference(ref.task, ref.policy, ref.pictures, turned(ref, [10, 11, 12], 1), 0.5)
    gate = compare("int8-cpu", turned(ref, [0, 1, 2, 3], 1), wrong_before)
    assert (gate.right_to_wrong, gate.wrong_to_right, gate.passed) == (4, 3, True)


def test_a_label_that_no_validation_sample_shows_is_named_and_not_silently_passed() -> None:
    ref = reference((300, 80, 0))
    gate = compare("int8-cpu", ref.probabilities, ref, "all of it")
    assert gate.passed
    assert gate.note == "not proved for 'stain', which no validation sample shows; all of it"
    assert not compare("int8-cpu", reference().probabilities, reference()).note

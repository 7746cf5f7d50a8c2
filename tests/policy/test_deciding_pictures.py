from __future__ import annotations

import math
from typing import Any

import pytest

from edge_sft.policy import DetectionPolicy, PictureAnomalyPolicy, SegmentationPolicy, decide, decide_picture
from edge_sft.prediction import Mark

ANOMALY = PictureAnomalyPolicy(threshold=2.0, map_threshold=1.0, uncertain_low=1.5)
DETECTION = DetectionPolicy(labels=("scratch", "dent", "screw"), ok_labels=("screw",), thresholds=(0.8, 0.4, 0.5))
SEGMENTATION = SegmentationPolicy(labels=("background", "crack", "rust"), ok_labels=("background",))


def mark(score: float, label: str | None = None, **sizes: Any) -> Mark:
    return Mark(label=label, score=score, left=0, top=0, right=1, bottom=1, **sizes)


@pytest.mark.parametrize("policy", [ANOMALY, DETECTION, SEGMENTATION])
@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_decides_nothing(policy: Any, score: float) -> None:
    decision = decide_picture(score, [mark(0.9, "scratch")], policy)
    assert (decision.verdict, decision.reason, decision.marks) == ("no_decision", "model output is not finite", None)


@pytest.mark.parametrize(
    ("score", "verdict", "told"),
    [
        (2.0, "nok", 1.0),
        (math.nextafter(2.0, 0), "uncertain", 1.0),
        (1.5, "uncertain", 0.75),
        (math.nextafter(1.5, 0), "ok", 0.75),
        (0.0, "ok", 0.0),
        (-3.0, "ok", 0.0),
        (2e6, "nok", 1e6),  # never clamped above: what is worse ranks worse
    ],
)
def test_an_anomaly_s_score_is_its_ratio_to_the_threshold(score: float, verdict: str, told: float) -> None:
    decision = decide_picture(score, [mark(3.0), mark(7.0)], ANOMALY)
    assert (decision.verdict, decision.label, decision.confidence) == (verdict, None, None)
    assert decision.score == pytest.approx(told)
    assert [one.score for one in decision.marks or ()] == [7.0, 3.0]  # marks explain, they do not decide


def test_small_marks_of_an_anomaly_are_left_out_and_the_verdict_stays() -> None:
    rule = ANOMALY.model_copy(update={"min_area_mm2": 1.0, "min_length_mm": 2.0})
    marks = [mark(3, area_mm2=0.9, length_mm=9), mark(2, area_mm2=9, length_mm=1.9), mark(1, area_mm2=1, length_mm=2)]
    decision = decide_picture(5.0, [*marks, mark(0.5)], rule)  # the last was not measured
    assert decision.verdict == "nok"
    assert [one.score for one in decision.marks or ()] == [1, 0.5]


@pytest.mark.parametrize(
    ("marks", "verdict", "label", "score"),
    [
        ([], "ok", None, 0.01),
        ([mark(0.79, "scratch")], "ok", None, 0.79),
        ([mark(0.8, "scratch")], "nok", "scratch", 0.8),
        # a dent needs less: it decides though the scratch is surer
        ([mark(0.79, "scratch"), mark(0.41, "dent")], "nok", "dent", 0.41),
        ([mark(0.99, "screw")], "ok", None, 0.0),
    ],
)
def test_detection_by_label(marks: list[Mark], verdict: str, label: str | None, score: float) -> None:
    decision = decide_picture(0.01, marks, DETECTION)
    assert (decision.verdict, decision.label) == (verdict, label)
    assert decision.score == pytest.approx(score)
    assert decision.confidence == (decision.score if verdict == "nok" else None)


def test_boxes_below_their_threshold_are_not_told_but_in_the_uncertain_band() -> None:
    marks = [mark(0.7, "scratch"), mark(0.55, "screw"), mark(0.39, "dent"), mark(0.1, "dent")]
    plain = decide_picture(0.7, marks, DETECTION)
    assert (plain.verdict, [one.label for one in plain.marks or ()]) == ("ok", ["screw"])
    wide = decide_picture(0.7, marks, DETECTION.model_copy(update={"uncertain_low": 0.8}))
    assert (wide.verdict, wide.label) == ("uncertain", "dent")  # 0.39 of 0.4 is nearer than 0.7 of 0.8
    assert [one.score for one in wide.marks or ()] == [0.7, 0.55, 0.39]


def test_a_box_too_small_is_no_defect() -> None:
    rule = DETECTION.model_copy(update={"min_length_mm": 2.0})
    decision = decide_picture(0.9, [mark(0.9, "scratch", length_mm=1.9, area_mm2=1.0)], rule)
    assert (decision.verdict, decision.score, decision.marks) == ("ok", 0.0, ())


def test_a_label_that_the_policy_does_not_know_decides_nothing() -> None:
    assert decide_picture(0.9, [mark(0.9, "strange")], DETECTION).verdict == "ok"


def test_segmentation_by_parts_that_are_large_and_sure_enough() -> None:
    rule = SEGMENTATION.model_copy(update={"min_area_px": 10.0, "min_peak": 0.7})
    small, faint = mark(0.99, "crack", area_px=9.9), mark(0.69, "rust", area_px=99)
    assert decide_picture(0.99, [small, faint], rule).verdict == "ok"
    assert decide_picture(0.99, [small, faint], rule).score == 0.99  # evidence, though too small to count
    decision = decide_picture(0.99, [small, faint, mark(0.7, "rust", area_px=10)], rule)
    assert (decision.verdict, decision.label, decision.confidence, decision.score) == ("nok", "rust", 0.7, 0.99)


def test_decide_says_that_it_needs_to_know_where() -> None:
    from edge_sft.errors import BugError

    with pytest.raises(BugError):
        decide({}, ANOMALY)

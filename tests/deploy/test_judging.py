from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_sft.deploy.judging import Measured, choose, judge
from edge_sft.errors import BundleRefused
from edge_sft.policy import Policy
from edge_sft.profile import Budgets
from edge_sft.slots.golden import Golden, compare, load

BUDGETS = Budgets(latency_p95_ms=50, memory_mb=100)


def measured(variant: str = "fp32", **changes: Any) -> Measured:
    good = {"golden_difference": 1e-6, "golden_tolerance": 1e-3, "golden_samples": 8, "decisions_changed": 0}
    given = {**good, "p50_ms": 10.0, "p95_ms": 12.0, "runs": 30, "memory_mb": 50.0, **changes}
    return Measured.model_validate({"variant": variant, **given})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"trouble": "crashed the engine"}, "crashed"),
        ({"finite": False, "golden_difference": None}, "NaN"),
        ({"golden_difference": None}, "NaN"),
        ({"golden_difference": 2e-3}, "golden outputs differ by 0.002 on this machine, 0.001 is allowed"),
        ({"decisions_changed": 2}, "decides 2 of 8"),
        ({"p95_ms": 50.1}, "too slow: p95 50.1 ms, the profile allows 50 ms"),
        ({"p95_ms": 50.0}, ""),
        ({"p95_ms": None, "p50_ms": None}, "not measured"),
        ({"memory_mb": 101.0}, "needs 101 MB"),
        ({"memory_mb": None}, ""),
    ],
)
def test_each_reason(changes: dict[str, Any], reason: str) -> None:
    (verdict,) = judge([measured(**changes)], BUDGETS, None)
    assert reason in verdict.reason
    assert verdict.passed == (not reason)
    assert choose((verdict,)) == ("fp32" if verdict.passed else None)


def test_a_policy_s_deadline_counts_like_the_budget() -> None:
    assert judge([measured()], BUDGETS, 12.0)[0].passed
    assert "deadline" in judge([measured()], BUDGETS, 11.0)[0].reason


@pytest.mark.parametrize(("p50", "passed"), [(9.4, True), (9.6, False), (10.0, False), (11.0, False)])
@pytest.mark.parametrize("variant", ["int8-cpu", "int8-trt"])
def test_int8_must_be_faster_than_fp32(variant: str, p50: float, passed: bool) -> None:
    verdicts = judge([measured(variant, p50_ms=p50), measured()], BUDGETS, None)
    assert verdicts[0].passed == passed
    assert choose(verdicts) == (variant if passed else "fp32")


def test_int8_alone_or_beside_a_broken_fp32_needs_no_comparison() -> None:
    assert judge([measured("int8-cpu")], BUDGETS, None)[0].passed
    verdicts = judge([measured("int8-cpu"), measured(trouble="crashed", p50_ms=1.0)], BUDGETS, None)
    assert choose(verdicts) == "int8-cpu"


def test_fp16_that_is_slower_passes_but_is_not_chosen() -> None:
    verdicts = judge([measured("fp16", p50_ms=11.0), measured()], BUDGETS, None)
    assert verdicts[0].passed
    assert choose(verdicts) == "fp32"


RULE = Policy(labels=("good", "bad"), ok_labels=("good",))
IMAGES = {"image": np.zeros((2, 4, 4, 3), np.uint8)}


def golden(*scores: float) -> Golden:
    return Golden(IMAGES, {"fp32": {"probabilities": np.float32([[1 - score, score] for score in scores])}})


def answers(*scores: float) -> Any:
    replies = iter(np.float32([[1 - score, score] for score in scores]))
    return lambda _: {"probabilities": next(replies)[None]}


def test_the_largest_difference_counts() -> None:
    found = compare(golden(0.1, 0.9), "fp32", answers(0.1, 0.8), RULE)
    assert found.difference == pytest.approx(0.1)
    assert (found.samples, found.decisions_changed) == (2, 0)


def test_a_changed_decision_counts_but_rounding_at_the_threshold_does_not() -> None:
    assert compare(golden(0.49, 0.9), "fp32", answers(0.51, 0.9), RULE).decisions_changed == 1
    assert compare(golden(0.499999, 0.9), "fp32", answers(0.500001, 0.9), RULE).decisions_changed == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_within_a_tolerance(bad: float) -> None:
    assert np.isnan(compare(golden(0.1, 0.9), "fp32", answers(0.1, bad), RULE).difference)
    assert np.isnan(compare(golden(bad, 0.9), "fp32", answers(0.1, 0.9), RULE).difference)


def test_missing_or_misshapen_golden_outputs_are_refused() -> None:
    with pytest.raises(BundleRefused, match="int8-cpu"):
        compare(golden(0.1, 0.9), "int8-cpu", answers(0.1, 0.9), RULE)
    with pytest.raises(BundleRefused, match="other outputs"):
        compare(golden(0.1, 0.9), "fp32", lambda _: {"probabilities": np.zeros((1, 3), np.float32)}, RULE)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"label": np.zeros(3)},
        {"in/image": np.zeros((0, 4, 4, 3), np.uint8)},
        {"in/image": np.zeros((2, 4, 4, 3), np.uint8), "out/fp32/probabilities": np.zeros((3, 2))},
        {"in/image": np.array(5)},
        {"in/image": np.array([{"a": 1}], dtype=object)},
    ],
    ids=["empty", "no inputs", "no samples", "counts differ", "a scalar", "a pickle"],
)
def test_unusable_golden_files_are_refused(tmp_path: Any, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "golden.npz", **arrays)
    with pytest.raises(BundleRefused):
        load(tmp_path)

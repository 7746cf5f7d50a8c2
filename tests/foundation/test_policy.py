from __future__ import annotations

import numpy as np
import pytest

from edge_sft import policy
from edge_sft.errors import BundleRefused
from edge_sft.task import image_classification

RULE = policy.Policy(labels=("good", "scratch", "dent"), ok_labels=("good",), threshold=0.4)


def decided(*probabilities: float, rule: policy.Policy = RULE) -> str:
    return policy.decide({"probabilities": np.array(probabilities)}, rule).verdict


def test_defect_labels_add_up() -> None:
    assert decided(0.55, 0.25, 0.20) == "nok"  # no single defect is most probable, together they are
    assert decided(0.70, 0.20, 0.10) == "ok"


def test_uncertain_band() -> None:
    rule = RULE.model_copy(update={"uncertain_low": 0.3, "uncertain_high": 0.6})
    assert decided(0.65, 0.35, 0.0, rule=rule) == "uncertain"
    assert decided(0.3, 0.7, 0.0, rule=rule) == "nok"


@pytest.mark.parametrize("bad", [(np.nan, 0.5, 0.5), (np.inf, 0, 0), (0.5, 0.5), ()])
def test_senseless_outputs_are_no_decision(bad: tuple[float, ...]) -> None:
    decision = policy.decide({"probabilities": np.array(bad)}, RULE)
    assert decision.verdict == "no_decision"
    assert decision.reason


def test_missing_output_is_no_decision() -> None:
    assert policy.decide({}, RULE).verdict == "no_decision"


def test_sorting_knows_no_defect() -> None:
    rule = policy.Policy(labels=("m4", "m5"), ok_labels=("m4", "m5"), min_confidence=0.8)
    assert decided(0.1, 0.9, rule=rule) == "ok"
    assert decided(0.4, 0.6, rule=rule) == "uncertain"


def test_version_changes_with_any_number() -> None:
    assert RULE.version != RULE.model_copy(update={"threshold": 0.41}).version


def test_band_must_hold_the_threshold() -> None:
    with pytest.raises(ValueError, match="uncertain_low"):
        policy.Policy(labels=("a", "b"), ok_labels=("a",), threshold=0.2, uncertain_low=0.3, uncertain_high=0.6)


def test_policy_of_another_task_is_refused() -> None:
    task = image_classification(("good", "scratch", "dent"), ("good",), 32, 32)
    policy.check_fits(RULE, task, source="p")
    swapped = image_classification(("scratch", "good", "dent"), ("good",), 32, 32)
    with pytest.raises(BundleRefused, match="labels"):
        policy.check_fits(RULE, swapped, source="p")
    looser = image_classification(("good", "scratch", "dent"), ("good", "dent"), 32, 32)
    with pytest.raises(BundleRefused, match="good"):
        policy.check_fits(RULE, looser, source="p")


def test_damaged_policy_file() -> None:
    with pytest.raises(BundleRefused, match=r"policy\.json"):
        policy.from_json(b'{"labels": ["a"]}', source="policy.json")

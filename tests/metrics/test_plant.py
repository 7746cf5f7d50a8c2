from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from edge_sft.checkpoint import Scores
from edge_sft.errors import BugError
from edge_sft.metrics.cost import Costs, cost_curve, log_odds
from edge_sft.metrics.intervals import clopper_pearson
from edge_sft.metrics.plant import (
    choose,
    choose_policy,
    claim,
    curve_of,
    defect_scores,
    percent,
    plant_rates,
    required_defects,
)
from edge_sft.metrics.summary import summary
from edge_sft.policy import Policy, decide
from edge_sft.recipe import PolicySection
from edge_sft.task import Task, image_classification

Make = Callable[..., Scores]


def test_a_claim_of_one_in_a_thousand_needs_about_three_thousand() -> None:
    assert required_defects(0.001) == 2995
    assert required_defects(0.01) == 299
    assert required_defects(0.01, misses=1) == 473
    text = claim(40, 0)
    assert "You have 40 defects" in text
    assert "≤ 0.1 % escapes needs about 3,000" in text
    assert "With none missed, the claim is ≤ 7.3 %" in text  # 1 − 0.05^(1/40) = 7.216 %, rounded up


def test_claims_at_the_borders() -> None:
    assert "nothing can be claimed" in claim(0, 0)
    assert claim(1, 0).startswith("You have 1 defect;")
    assert "supports a claim of ≤ 0.1 %" in claim(2995, 0)
    assert "needs about" in claim(2994, 0)
    assert "one missed" in claim(2995, 1)
    with pytest.raises(BugError):
        required_defects(0.0)


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0 %"), (0.001, "0.1 %"), (0.0123, "1.2 %"), (0.05, "5 %"), (0.5, "50 %"), (1.0, "100 %"), (0.1, "10 %")],
)
def test_percent(share: float, words: str) -> None:
    assert percent(share) == words


def test_rates_count_what_decide_decides(task: Task) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 400)
    logits = random.normal(0, 1, (400, 3))
    logits[np.arange(400), labels] += 1
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    scores = Scores([str(i) for i in range(400)], labels, probabilities, np.ones(400, np.float32))
    policy = Policy(labels=task.labels, ok_labels=task.ok_labels, threshold=0.4)
    verdicts = np.array([decide({"probabilities": row}, policy).verdict for row in probabilities])
    rates = plant_rates(scores, task, 0.4, split="test")
    assert rates is not None
    assert rates.escaped == ((labels > 0) & (verdicts == "ok")).sum()
    assert rates.scrapped == ((labels == 0) & (verdicts == "nok")).sum()
    assert (rates.escape_low, rates.escape_high) == clopper_pearson(rates.escaped, rates.defects)


def test_only_the_test_split_with_equal_weights_is_exact(binary: Task, make: Make) -> None:
    scores, weighted = make([0.9, 0.2], [0.1, 0.3]), make([0.9, 0.2], [0.1, 0.3], [3, 1, 1, 1])
    rates = {split: plant_rates(scores, binary, 0.5, split=split) for split in ("val", "test")}  # type: ignore[arg-type]
    assert [rate is not None and rate.exact for rate in rates.values()] == [False, True]
    heavy = plant_rates(weighted, binary, 0.5, split="test")
    assert heavy is not None
    assert not heavy.exact
    assert heavy.escape_rate == pytest.approx(0.25)
    assert (heavy.escaped, heavy.defects) == (1, 2)


def test_splits_without_defects_or_pictures(binary: Task, make: Make) -> None:
    rates = plant_rates(make([], [0.1]), binary, 0.5, split="test")
    assert rates is not None
    assert (rates.escape_rate, rates.escape_low, rates.escape_high) == (None, 0.0, 1.0)
    nothing = plant_rates(make([], []), binary, 0.5, split="test")
    assert nothing is not None
    assert (nothing.escape_rate, nothing.overkill_rate) == (None, None)
    assert summary(make([], []), binary, Policy(labels=binary.labels), split="test") == {}


def test_sorting_has_no_escapes() -> None:
    sorting = image_classification(("a", "b"), ("a", "b"), 32, 32)
    scores = Scores(["x"], np.zeros(1, np.int64), np.array([[0.7, 0.3]], np.float32), np.ones(1, np.float32))
    assert plant_rates(scores, sorting, 0.5, split="test") is None
    choice = choose(scores, sorting, PolicySection())
    assert (choice.policy.threshold, choice.curve) == (0.5, None)
    assert "no threshold to choose" in choice.notes[0]
    numbers = summary(scores, sorting, choice.policy, split="val")
    assert "escape_rate" not in numbers
    assert numbers["accuracy"] == 1.0


def test_the_threshold_lies_in_the_gap_not_at_its_edge(binary: Task, make: Make) -> None:
    scores = make([0.9, 0.95, 0.97, 0.92], [0.05, 0.02, 0.1, 0.04, 0.07, 0.03])
    policy = choose_policy(scores, binary, PolicySection(escape_cost=1, overkill_cost=1, prevalence=0.5))
    assert 0.3 < policy.threshold < 0.7


def test_dearer_escapes_lower_the_threshold_and_rarer_defects_raise_it(binary: Task) -> None:
    scores = random_binary(100, 400)
    cheap, dear = (
        choose_policy(scores, binary, PolicySection(escape_cost=cost, prevalence=0.05)) for cost in (2.0, 200.0)
    )
    rare, common = (choose_policy(scores, binary, PolicySection(prevalence=share)) for share in (0.001, 0.3))
    assert dear.threshold < cheap.threshold
    assert common.threshold < rare.threshold


def random_binary(defects: int, goods: int, seed: int = 0, apart: float = 2.0) -> Scores:
    random = np.random.default_rng(seed)
    odds = np.r_[random.normal(apart, 1.5, defects), random.normal(-apart, 1.5, goods)]
    evidence = 1 / (1 + np.exp(-odds))
    labels = np.r_[np.zeros(defects, np.int64), np.ones(goods, np.int64)]
    probabilities = np.stack([evidence, 1 - evidence], axis=1).astype(np.float32)
    return Scores([str(i) for i in range(len(odds))], labels, probabilities, np.ones(len(odds), np.float32))


def test_smoothing_costs_less_on_the_line_than_counting(binary: Task) -> None:
    """With 8 defects: the regret of the smoothed choice is well below that of the counted one, over 100 draws."""
    truth, costs = random_binary(50_000, 50_000, seed=99), Costs(10, 1, 8 / 88)
    odds, defect = log_odds(defect_scores(truth, binary)), truth.labels == 0
    bad, good = np.sort(odds[defect]), np.sort(odds[~defect])

    def on_the_line(threshold: float) -> float:
        at = log_odds(np.array([threshold]))[0]
        escape, passed = np.searchsorted(bad, at) / len(bad), np.searchsorted(good, at) / len(good)
        return float(costs.per_part(escape, 1 - passed))

    smoothed, counted = [], []
    for seed in range(100):
        scores = random_binary(8, 80, seed=seed)
        smoothed.append(on_the_line(choose_policy(scores, binary, PolicySection()).threshold))
        curve = cost_curve(defect_scores(scores, binary), scores.labels == 0, scores.weights, costs)
        ties = np.flatnonzero(curve.observed_cost <= curve.observed_cost.min() + 1e-12)
        counted.append(on_the_line(float(curve.thresholds[ties[len(ties) // 2]])))
    best = min(on_the_line(t) for t in np.linspace(0.01, 0.99, 99))
    assert np.mean(smoothed) - best < 0.7 * (np.mean(counted) - best)


def test_a_wished_escape_rate_is_kept_and_its_price_named(binary: Task) -> None:
    scores = random_binary(60, 600)
    free = choose(scores, binary, PolicySection())
    kept = choose(scores, binary, PolicySection(max_escape_rate=0.01))
    assert kept.policy.threshold < free.policy.threshold
    rates = plant_rates(scores, binary, kept.policy.threshold, split="val")
    assert rates is not None
    assert rates.escape_rate is not None
    assert rates.escape_rate <= 0.01
    assert any("was lowered" in note and "of the good parts" in note for note in kept.notes)
    assert any("Validation cannot support it" in note for note in kept.notes)


def test_enough_defects_support_the_wish_without_a_remark(binary: Task) -> None:
    scores = random_binary(3500, 3500, apart=9.0)
    choice = choose(scores, binary, PolicySection(max_escape_rate=0.001))
    assert choice.notes == ()


@pytest.mark.parametrize(("defects", "goods", "missing"), [(0, 5, "defect"), (5, 0, "good part"), (0, 0, "defect")])
def test_one_kind_only_falls_back_on_the_costs(
    binary: Task, make: Make, defects: int, goods: int, missing: str
) -> None:
    choice = choose(make([0.9] * defects, [0.1] * goods), binary, PolicySection())
    assert choice.policy.threshold == pytest.approx(1 / 11, abs=1e-6)
    assert choice.curve is None
    assert f"no {missing}" in choice.notes[0]


def test_saturated_scores_and_single_pictures(binary: Task, make: Make) -> None:
    for scores in (make([1.0], [0.0]), make([1.0, 1.0], [0.0, 0.0, 0.0]), make([0.5], [0.5])):
        policy = choose_policy(scores, binary, PolicySection())
        assert 0 <= policy.threshold <= 1
    separated = choose_policy(make([1.0, 1.0], [0.0, 0.0, 0.0]), binary, PolicySection())
    assert 0.001 < separated.threshold < 0.999


def test_costs_that_make_a_model_useless_are_named(binary: Task) -> None:
    scores = random_binary(50, 50, apart=0.0)
    notes = choose(scores, binary, PolicySection(escape_cost=1000, prevalence=0.5)).notes
    assert any("scrap (or inspect by hand) every part" in note for note in notes)
    notes = choose(scores, binary, PolicySection(escape_cost=1, overkill_cost=1000, prevalence=0.01)).notes
    assert any("let every part pass" in note for note in notes)
    free = choose_policy(scores, binary, PolicySection(escape_cost=0, overkill_cost=0))
    assert 0 < free.threshold < 1


def test_prevalence_comes_from_the_pictures_unless_given(binary: Task) -> None:
    scores = random_binary(20, 60)
    assert choose_policy(scores, binary, PolicySection()).prevalence == pytest.approx(0.25)
    assert choose_policy(scores, binary, PolicySection(prevalence=0.02)).prevalence == pytest.approx(0.02)


def test_the_policys_own_curve_has_its_valley_at_the_threshold(binary: Task) -> None:
    scores = random_binary(50, 200)
    policy = choose_policy(scores, binary, PolicySection())
    curve = curve_of(scores, binary, policy)
    assert curve is not None
    at = np.interp(policy.threshold, curve.thresholds, curve.cost)
    assert at == pytest.approx(curve.cost.min(), rel=0.05)
    assert curve_of(random_binary(0, 5), binary, policy) is None


def test_a_million_pictures_take_seconds(binary: Task) -> None:
    scores = random_binary(100_000, 900_000)
    begun = time.perf_counter()
    choice = choose(scores, binary, PolicySection(max_escape_rate=0.05))
    summary(scores, binary, choice.policy, split="val")
    assert time.perf_counter() - begun < 20


def test_the_summary_is_flat_finite_and_complete(binary: Task) -> None:
    scores = random_binary(30, 100)
    policy = choose_policy(scores, binary, PolicySection())
    numbers = summary(scores, binary, policy, split="test")
    assert all(isinstance(value, float) and np.isfinite(value) for value in numbers.values())
    assert {"balanced_accuracy", "macro_f1", "escape_rate", "overkill_rate_high", "roc_auc", "threshold"} <= set(
        numbers
    )

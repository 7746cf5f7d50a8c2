from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_sft.errors import DataError, UserError
from edge_sft.policy import AnomalyPolicy, CommissioningRule
from edge_sft.preprocess import Channel, Windowing
from edge_sft.preprocess.window import Window
from edge_sft.slots.commissioning import Collector, Commissioning, Healthy, commission, statistics
from edge_sft.slots.memories import remember, rows_for
from edge_sft.task import Task, window_anomaly, window_regression

T, C, M = 4, 2, 50
ROWS = rows_for("neighbours", C, M)
DIGEST = "ab" * 32
WINDOWING = Windowing(channels=(Channel(name="temp"), Channel(name="flow")), period_s=1.0, length=T)


def task() -> Task:
    return window_anomaly(T, C, (ROWS, C))


def infer(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A graph in numpy: features are the z-scored means, the score is the distance to the nearest example."""
    count = np.maximum(inputs["valid"].sum(axis=1), 1)
    z = (inputs["window"] - inputs["mean"]) / inputs["std"] * inputs["valid"]
    features = (z.sum(axis=1) / count).astype(np.float32)
    bank = inputs["bank"].astype(np.float64)
    query = ((features - bank[0]) * bank[1]) @ bank[2 : 2 + C]
    score = np.sqrt(((query[:, None] - bank[None, 2 + C :]) ** 2).mean(axis=2)).min(axis=1)
    return {"score": score.astype(np.float32), "features": features, "contributions": np.abs(features)}


def healthy(count: int = 200, seed: int = 0) -> Healthy:
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((count, T, C)) + np.array([50, 0])).astype(np.float32)
    return Healthy(values, np.ones_like(values), np.arange(count, dtype=np.float64))


def made(given: Healthy, rule: CommissioningRule | None = None) -> Commissioning:
    return commission(
        infer,
        task(),
        WINDOWING,
        given,
        rule or CommissioningRule(),
        model_digest=DIGEST,
        asset="pump 1",
        created_at="2026-01-31T12:00:00.000Z",
        source="healthy.csv",
    )


def test_mean_and_deviation_are_those_of_the_valid_cells() -> None:
    given = healthy()
    valid = given.valid.copy()
    valid[:100, :2, 0] = 0
    values = np.where(valid > 0, given.values, 0).astype(np.float32)
    found = made(Healthy(values, valid, given.end))
    cells = values[..., 0][valid[..., 0] > 0].astype(np.float64)
    assert found.inputs["mean"][0] == pytest.approx(cells.mean(), rel=1e-6)
    assert found.inputs["std"][0] == pytest.approx(cells.std(), rel=1e-5)


def test_windows_with_half_of_a_channel_missing_are_no_examples_of_health() -> None:
    given = healthy()
    valid = given.valid.copy()
    valid[::10, 1:, 1] = 0  # one of four values is left
    valid[5::10, 3:, 1] = 0  # three of four are
    found = made(Healthy(np.where(valid > 0, given.values, 0).astype(np.float32), valid, given.end))
    assert found.windows == 180
    assert any(fact.startswith("20 windows") for fact in found.facts)
    sparse = given.valid.copy()
    sparse[:, 1:, 1] = 0  # a channel that is always sparse is whole as it is
    assert made(Healthy(np.where(sparse > 0, given.values, 0).astype(np.float32), sparse, given.end)).windows == 200


def test_a_large_offset_does_not_eat_the_deviation() -> None:
    given = healthy()
    shifted = Healthy((given.values + np.float32(8192)).astype(np.float32), given.valid, given.end)
    _, std = statistics(shifted, np.array([True, True]))
    np.testing.assert_allclose(std, given.values.std(axis=(0, 1)), rtol=0.02)


def test_the_threshold_is_the_rules_share_of_scores_that_no_window_gave_itself() -> None:
    low = made(healthy(), CommissioningRule(quantile=0.5, factor=1.0))
    high = made(healthy(), CommissioningRule(quantile=0.99, factor=1.0))
    room = made(healthy(), CommissioningRule(quantile=0.99, factor=2.0))
    assert 0 < low.threshold < high.threshold
    assert room.threshold == pytest.approx(2 * high.threshold)
    # in the memory of the whole run every window finds itself
    given = healthy()
    scores = infer({"window": given.values, "valid": given.valid, **low.inputs})["score"]
    assert np.quantile(scores, 0.5) < low.threshold


def test_the_share_of_new_healthy_windows_over_the_threshold_is_what_the_quantile_says() -> None:
    found = made(healthy(), CommissioningRule(quantile=0.9, factor=1.0))
    later = healthy(2000, seed=9)
    scores = infer({"window": later.values, "valid": later.valid, **found.inputs})["score"]
    assert 0.05 < (scores >= found.threshold).mean() < 0.15


def test_a_budget_of_alarms_sets_the_threshold_and_says_what_the_run_proves() -> None:
    hourly = Healthy(*(array[:200] for array in (healthy().values, healthy().valid)), np.arange(200.0) * 3600)
    none, some = (made(hourly, CommissioningRule(alarms_a_day=budget, factor=1.0)) for budget in (0.0, 1.0))
    assert none.threshold > some.threshold
    assert "8.3 days would have opened 0 cases" in none.facts[-1]
    assert "0.36 a day" in none.facts[-1]
    roomy = made(hourly, CommissioningRule(alarms_a_day=0.0, factor=1.5))
    assert roomy.threshold == pytest.approx(1.5 * none.threshold)


def test_the_machines_threshold_goes_into_its_policy() -> None:
    found = made(healthy())
    default = AnomalyPolicy()
    assert default.threshold is None
    assert found.policy(default).threshold == found.threshold
    assert found.policy(default).version != default.version


def test_a_channel_that_was_not_there_is_not_watched_and_said() -> None:
    given = healthy()
    valid = given.valid.copy()
    valid[:, :, 1] = 0
    found = made(Healthy(given.values * valid, valid, given.end))
    assert any("flow" in fact and "not watched" in fact for fact in found.facts)
    wild = np.full((1, T, C), 1e4, dtype=np.float32)
    wild[:, :, 0] = 50
    ones = np.ones_like(wild)
    assert infer({"window": wild, "valid": ones, **found.inputs})["score"][0] < found.threshold


def test_a_channel_that_stands_still_is_watched_all_the_same() -> None:
    given = healthy()
    given.values[:, :, 1] = 32.0
    found = made(given)
    moved = given.values[:1].copy()
    moved[:, :, 1] = 33.0
    assert infer({"window": moved, "valid": np.ones_like(moved), **found.inputs})["score"][0] > found.threshold


def test_windows_with_a_channel_missing_are_left_out() -> None:
    given = healthy()
    valid = given.valid.copy()
    valid[:20, :, 1] = 0
    found = made(Healthy(given.values * valid, valid, given.end))
    assert found.windows == 180
    assert any("20 windows" in fact for fact in found.facts)


def test_a_run_that_never_repeats_itself_is_told() -> None:
    given = healthy()
    drift = np.linspace(0, 40, len(given))[:, None, None]
    found = made(Healthy((given.values + drift).astype(np.float32), given.valid, given.end))
    assert any("does not repeat itself" in fact for fact in found.facts)
    assert not made(healthy()).facts


@pytest.mark.parametrize("count", [1, 29, 31])
def test_a_run_too_short_is_refused_in_words(count: int) -> None:
    with pytest.raises(DataError, match="longer healthy run"):
        made(healthy(count))


def test_no_window_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="gives no window"):
        Healthy.of([])


def test_a_run_without_channels_is_refused() -> None:
    given = healthy()
    with pytest.raises(DataError, match="no channel"):
        made(Healthy(given.values * 0, given.valid * 0, given.end))


def test_a_machine_that_stood_still_gives_no_threshold() -> None:
    given = healthy()
    with pytest.raises(DataError, match="stood still"):
        made(Healthy(np.full_like(given.values, 5.0), given.valid, given.end))


def test_a_model_of_another_kind_needs_none() -> None:
    with pytest.raises(UserError, match="needs no commissioning"):
        commission(
            infer,
            window_regression(T, C, (0.05, 0.95), "h"),
            WINDOWING,
            healthy(),
            CommissioningRule(),
            model_digest=DIGEST,
            asset="a",
            created_at="",
            source="",
        )


def test_the_same_run_gives_the_same_bits() -> None:
    one, two = made(healthy()), made(healthy())
    assert one.threshold == two.threshold
    assert all(one.inputs[name].tobytes() == two.inputs[name].tobytes() for name in ("mean", "std", "bank"))


def test_a_memory_of_components_has_its_limits_at_one() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6))
    bank = remember(features, rows_for("components", 6, 0), CommissioningRule(method="components")).astype(np.float64)
    standard = (features - bank[0]) * bank[1]
    for rows in (bank[2:8], bank[8:]):
        squares = ((standard @ rows.T) ** 2).sum(axis=1)
        assert np.quantile(squares, 0.99) == pytest.approx(1.0, rel=1e-3)


def test_a_very_long_run_is_thinned_evenly() -> None:
    collector = Collector(most=200)
    blank = np.zeros((T, C), dtype=np.float32)
    for start in range(0, 10_000, 500):
        collector.add([Window("a", float(end), blank, blank) for end in range(start, start + 500)])
    kept = collector.healthy()
    assert collector.given == 10_000
    assert 200 <= len(kept) <= 401
    assert kept.end[0] == 0
    assert kept.end[-1] > 9_900
    assert len(set(np.diff(kept.end))) == 1


def test_long_windows_are_kept_in_smaller_number() -> None:
    collector = Collector(most_bytes=200 * 1024)
    large = np.zeros((256, 1), dtype=np.float32)
    collector.add([Window("a", float(end), large, large) for end in range(1000)])
    assert len(collector.healthy()) <= 201

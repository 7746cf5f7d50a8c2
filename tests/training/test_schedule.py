from __future__ import annotations

import numpy as np
import pytest

from edge_sft.recipe import TrainSection
from edge_sft.training import schedule

LABELS = np.array([0] * 90 + [1] * 8 + [2] * 2)
ONES = np.ones(100, dtype=np.float32)


def _order(steps: int = 50, balance: float = 1.0, seed: int = 0) -> np.ndarray:
    return schedule.order(LABELS, ONES, steps=steps, batch=12, balance=balance, seed=seed)


def test_order_is_a_function_of_the_seed_alone() -> None:
    assert (_order() == _order()).all()
    assert (_order() != _order(seed=1)).any()


@pytest.mark.parametrize(("balance", "share"), [(0.0, [0.9, 0.08, 0.02]), (1.0, [1 / 3] * 3)])
def test_classes_come_as_often_as_asked(balance: float, share: list[float]) -> None:
    drawn = np.bincount(LABELS[_order(steps=200, balance=balance)].ravel(), minlength=3) / 2400
    np.testing.assert_allclose(drawn, share, atol=0.01)


def test_every_batch_is_balanced_when_asked() -> None:
    for batch in _order(balance=1.0):
        assert set(np.bincount(LABELS[batch], minlength=3)) <= {3, 4, 5}


def test_a_class_is_gone_through_before_any_picture_comes_again() -> None:
    chosen = _order(steps=20, balance=0.0).ravel()
    first = [index for index in chosen if LABELS[index] == 0][:90]
    assert len(set(first)) == 90


def test_a_label_without_pictures_is_never_drawn() -> None:
    shares = schedule.class_probabilities(np.array([0, 0, 2]), np.ones(3, dtype=np.float32), 1.0)
    assert shares.tolist() == [0.5, 0.0, 0.5]


def test_sample_weights_count() -> None:
    shares = schedule.class_probabilities(np.array([0, 1]), np.array([3, 1], dtype=np.float32), 0.0)
    assert shares.tolist() == [0.75, 0.25]


def test_rate_warms_up_and_ends_near_nothing() -> None:
    factors = [schedule.rate_factor(step, 100) for step in range(100)]
    assert factors[0] < 0.2
    assert max(factors) == 1.0
    assert factors[-1] < 0.01


def test_auto_steps_are_bounded_in_pictures_and_pixels() -> None:
    train = TrainSection()
    assert schedule.step_count(train, 10, 128 * 128) == schedule.FEWEST
    assert schedule.step_count(train, 1_000_000, 64 * 64) == schedule.MOST
    assert schedule.step_count(train, 1600, 224 * 224) < schedule.step_count(train, 1600, 128 * 128)
    assert schedule.step_count(TrainSection(steps=7), 1600, 224 * 224) == 7


def test_step_seeds_differ() -> None:
    assert len({schedule.step_seed(seed, step) for seed in range(3) for step in range(100)}) == 300

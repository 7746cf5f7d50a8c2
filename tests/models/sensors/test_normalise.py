from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_sft.models.sensors.normalise import LIMIT, Normaliser


@pytest.fixture
def flights() -> tuple[np.ndarray, np.ndarray]:
    """Rows under three conditions (channel 0), a channel that depends on it, one that does not, one dead, an age."""
    rng = np.random.default_rng(0)
    condition = rng.integers(0, 3, 3000)
    level = np.array([0.0, 20.0, 42.0])[condition]
    rows = np.stack(
        [
            level + 0.01 * rng.normal(size=3000),
            9000 + 100 * level + 5 * rng.normal(size=3000),
            rng.normal(size=3000),
            np.full(3000, 518.67),
            np.arange(3000) / 100,
        ],
        axis=1,
    )
    return rows.astype(np.float32), condition


def run(normaliser: Normaliser, rows: np.ndarray, valid: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    mask = np.ones_like(rows) if valid is None else valid
    z, known = normaliser(torch.from_numpy(rows)[None], torch.from_numpy(mask)[None])
    return z[0].numpy(), known[0].numpy()


def test_every_row_finds_its_condition(flights):
    rows, condition = flights
    normaliser = Normaliser.fit(rows, np.ones_like(rows), conditions=(0,), clusters=6)
    assert normaliser.mean.shape[0] <= 6
    found = normaliser.condition(torch.from_numpy(rows)[None], torch.ones(1, *rows.shape))[0].numpy()
    for cluster in np.unique(found):
        assert len(np.unique(condition[found == cluster])) == 1


def test_what_depends_on_the_condition_is_standard_normal_under_each(flights):
    rows, condition = flights
    z, _ = run(Normaliser.fit(rows, np.ones_like(rows), conditions=(0,), clusters=3), rows)
    for number in range(3):
        assert abs(z[condition == number, 1].mean()) < 0.01
        assert abs(z[condition == number, 1].std() - 1) < 0.02


def test_a_dead_channel_says_nothing_even_when_it_wakes(flights):
    rows, _ = flights
    normaliser = Normaliser.fit(rows, np.ones_like(rows))
    woken = rows.copy()
    woken[:, 3] += 100
    assert (run(normaliser, woken)[0][:, 3] == 0).all()


def test_age_is_not_normalised_by_condition(flights):
    rows, _ = flights
    normaliser = Normaliser.fit(rows, np.ones_like(rows), conditions=(0,), clusters=3, lifelong=(4,))
    assert torch.equal(normaliser.mean[0, 4], normaliser.mean[1, 4])


def test_rows_that_are_not_valid_count_neither_in_fitting_nor_afterwards(flights):
    rows, _ = flights
    valid = np.ones_like(rows)
    valid[::2, 1] = 0
    spoiled = rows.copy()
    spoiled[::2, 1] = 0  # what a window holds where nothing is known
    normaliser = Normaliser.fit(spoiled, valid)
    assert abs(float(normaliser.mean[0, 1]) - rows[1::2, 1].mean()) < 0.5
    z, _ = run(normaliser, spoiled, valid)
    assert (z[::2, 1] == 0).all()


def test_without_its_condition_a_step_cannot_be_compared(flights):
    rows, _ = flights
    normaliser = Normaliser.fit(rows, np.ones_like(rows), conditions=(0,), clusters=3)
    valid = np.ones_like(rows)
    valid[5, 0] = 0
    z, known = run(normaliser, rows, valid)
    assert (known[5] == 0).all()
    assert (z[5] == 0).all()
    assert (known[6] == 1).all()


def test_wild_values_are_cut(flights):
    rows, _ = flights
    wild = rows.copy()
    wild[0, 2] = 1e30
    assert run(Normaliser.fit(rows, np.ones_like(rows)), wild)[0][0, 2] == LIMIT


def test_fewer_conditions_than_asked_for():
    rows = np.tile(np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32), (50, 1))
    normaliser = Normaliser.fit(rows, np.ones_like(rows), conditions=(0,), clusters=6)
    assert normaliser.mean.shape[0] == 2
    constant = np.ones((10, 2), dtype=np.float32)
    assert Normaliser.fit(constant, np.ones_like(constant), conditions=(0,), clusters=6).conditions == ()


def test_it_is_rebuilt_from_its_config(flights):
    rows, _ = flights
    normaliser = Normaliser.fit(rows, np.ones_like(rows), conditions=(0,), clusters=3)
    again = Normaliser.from_config(normaliser.config)
    again.load_state_dict(normaliser.state_dict())
    assert np.array_equal(run(normaliser, rows)[0], run(again, rows)[0])

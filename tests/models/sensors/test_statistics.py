from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_sft.models.sensors.statistics import Statistics

LENGTH, CHANNELS = 40, 3
ALL = ("last", "mean:5", "ema:10", "mean:40", "std:40", "slope:40")


def features(z: np.ndarray, valid: np.ndarray, statistics: tuple[str, ...] = ALL) -> np.ndarray:
    body = Statistics(z.shape[1], z.shape[2], statistics)
    z = z * valid
    out = body(torch.from_numpy(z.astype(np.float32)), torch.from_numpy(valid.astype(np.float32)))
    return out.numpy().reshape(len(z), len(statistics), z.shape[2])


def by_hand(z: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The same for one channel of one window, from the valid steps only."""
    ago = np.arange(len(z))[::-1]
    here = valid > 0
    if not here.any():
        return np.zeros(6)

    def mean(weight: np.ndarray) -> float:
        total = (weight * here).sum()
        return float((weight * here * z).sum() / total) if total else 0.0

    x, t = z[here], np.arange(len(z))[here]
    cov = ((t - t.mean()) * (x - x.mean())).mean()
    slope = cov / t.std() if len(x) > 1 else 0.0
    return np.array([x[-1], mean((ago < 5) * 1.0), mean(0.9**ago), x.mean(), x.std(), slope])


@pytest.mark.parametrize("share", [1.0, 0.7, 0.1, 0.0])
def test_statistics_are_those_of_what_is_valid(share):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(20, LENGTH, CHANNELS)).cumsum(axis=1) / 5
    valid = (rng.random(z.shape) < share).astype(float)
    got = features(z, valid)
    for n in range(len(z)):
        for c in range(CHANNELS):
            assert got[n, :, c] == pytest.approx(by_hand(z[n, :, c], valid[n, :, c]), abs=5e-3)


def test_a_window_that_has_just_begun_is_like_a_short_one():
    rng = np.random.default_rng(2)
    short = rng.normal(size=(1, LENGTH, CHANNELS))
    valid = np.ones_like(short)
    valid[:, :30] = 0
    assert features(short, valid) == pytest.approx(features(short * valid + 99 * (1 - valid), valid))


def test_age_gives_its_last_value_only():
    body = Statistics(10, 3, ALL, lifelong=(2,))
    assert body.features == 6 * 2 + 1
    z = torch.zeros(2, 10, 3)
    z[:, :, 2] = torch.arange(10.0)
    assert body(z, torch.ones_like(z))[:, -1].tolist() == [9.0, 9.0]
    assert body.channel_of == (0, 1) * 6 + (2,)


def test_a_batch_is_its_windows():
    rng = np.random.default_rng(3)
    z = rng.normal(size=(7, LENGTH, CHANNELS))
    valid = np.ones_like(z)
    whole = features(z, valid)
    assert np.allclose(whole, np.concatenate([features(z[n : n + 1], valid[n : n + 1]) for n in range(7)]), atol=1e-6)


def test_an_unknown_statistic_is_refused():
    with pytest.raises(ValueError, match="median"):
        Statistics(10, 2, ("median:5",))

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from edge_sft.errors import BugError, DataError
from edge_sft.federated.privacy import clip, coordinator_std, length, noised, secret_in, site_std
from edge_sft.federated_privacy_section import PrivacySection

SECRET = bytes(range(32))


def update(seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {"head.weight": (7, 33), "body": (2, 3, 5), "scalar": (), "nothing": (0,)}
    return {name: scale * random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_a_long_update_is_cut_to_the_norm() -> None:
    delta = update(scale=1e3)
    cut, factor = clip(delta, 0.5)
    assert 0.4999 < length(cut) <= 0.5
    assert factor == pytest.approx(0.5 / length(delta), rel=1e-5)
    for name, array in cut.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, delta[name] * factor, rtol=1e-6)


def test_no_update_is_ever_longer_than_allowed() -> None:
    for seed in range(50):
        assert length(clip(update(seed), 1 / 3)[0]) <= 1 / 3


def test_a_short_update_stays_as_it_is() -> None:
    delta = update()
    cut, factor = clip(delta, length(delta))
    assert factor == 1.0
    assert all(cut[name] is delta[name] for name in delta)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match="not finite"):
        clip({"a": np.array([1, bad], np.float32)}, 1.0)


def test_the_noise_is_normal_of_the_asked_spread() -> None:
    delta = {"a": np.full(200_000, 3, np.float32), "b": np.zeros((100, 1001), np.float32)}
    out = noised(delta, 0.25, secret=SECRET, context="run/1")
    noise = np.concatenate([(out[name] - delta[name]).ravel() for name in delta]) / 0.25
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    inside = [float(np.mean(np.abs(noise) < width)) for width in (1, 2, 3)]
    np.testing.assert_allclose(inside, [0.6827, 0.9545, 0.9973], atol=0.004)
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.01
    halves = len(noise) // 2
    assert abs(np.corrcoef(noise[:halves], noise[halves : 2 * halves])[0, 1]) < 0.01  # Box–Muller's two


def test_resumed_is_the_same_and_everything_else_is_not() -> None:
    delta = update()
    once = noised(delta, 1.0, secret=SECRET, context="run/1")
    again = noised(dict(reversed(delta.items())), 1.0, secret=SECRET, context="run/1")
    for name in delta:
        np.testing.assert_array_equal(once[name], again[name])
    other = {name: array + np.float32(1e-3) for name, array in delta.items()}
    for changed in (
        noised(delta, 1.0, secret=SECRET, context="run/2"),
        noised(delta, 1.0, secret=bytes(32), context="run/1"),
    ):
        assert np.abs(changed["head.weight"] - once["head.weight"]).max() > 0.1
    # the same round asked twice of different updates: their difference must not lie open
    open_difference = noised(other, 1.0, secret=SECRET, context="run/1")["head.weight"] - once["head.weight"]
    assert np.abs(open_difference).max() > 0.1


def test_a_short_secret_is_no_secret() -> None:
    with pytest.raises(BugError, match="16 bytes"):
        noised(update(), 1.0, secret=bytes(16), context="")


def test_who_adds_how_much() -> None:
    at_coordinator = PrivacySection(kind="dp", clip=2.0, noise=0.5)
    at_site = PrivacySection(kind="dp", clip=2.0, noise=0.5, at="site")
    assert (site_std(at_coordinator), coordinator_std(at_coordinator, 4)) == (0.0, 0.25)
    assert (site_std(at_site), coordinator_std(at_site, 4)) == (1.0, 0.0)
    assert (site_std(PrivacySection()), coordinator_std(PrivacySection(), 4)) == (0.0, 0.0)


def test_the_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "site" / "noise"
    first = secret_in(path)
    assert len(first) == 32
    assert secret_in(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret_in(tmp_path / "other") != first
    path.write_bytes(b"short")
    with pytest.raises(DataError, match="5 bytes"):
        secret_in(path)

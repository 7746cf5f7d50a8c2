from __future__ import annotations

import math

import pytest

from edge_sft.federated.accounting import epsilon, promise
from edge_sft.federated_privacy_section import PrivacySection


# Google's dp-accounting 0.6.0: RdpAccountant().compose(GaussianDpEvent(noise), rounds).get_epsilon(delta)
@pytest.mark.parametrize(
    ("noise", "rounds", "delta", "published"),
    [
        (0.3, 3, 1e-5, 42.845493283868805),
        (0.5, 10, 1e-6, 51.723724650111365),
        (1.0, 1, 1e-5, 4.728507067217623),
        (1.0, 3, 1e-5, 9.009958991683897),
        (1.0, 10, 1e-6, 20.551991629803823),
        (2.0, 3, 1e-6, 4.440775682446562),
        (4.0, 100, 1e-5, 14.132226163159334),
        (10.0, 1, 1e-5, 0.3752912223662765),
        (10.0, 100, 1e-6, 5.2215396311544175),
    ],
)
def test_equals_the_published_accountant(noise: float, rounds: int, delta: float, published: float) -> None:
    assert epsilon(rounds, noise, delta) == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("rounds", [1, 3, 30])
def test_never_promises_more_than_the_exact_curve(noise: float, rounds: int) -> None:
    """Balle and Wang 2018, Theorem 8: rounds of Gaussian noise are one with less; its δ(ε) is known exactly."""
    value, once = epsilon(rounds, noise, 1e-5), noise / math.sqrt(rounds)

    def below(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    exact = below(1 / (2 * once) - value * once) - math.exp(value) * below(-1 / (2 * once) - value * once)
    assert exact <= 1e-5
    assert exact > 1e-7  # and not by far


def test_ends_of_the_scale() -> None:
    assert epsilon(0, 1.0, 1e-5) == 0
    assert epsilon(3, 0.0, 1e-5) == math.inf
    assert epsilon(1, 1e6, 1e-5) == 0
    assert epsilon(1, 1e-6, 1e-5) > 1e9


def test_grows_with_rounds_and_falls_with_noise() -> None:
    assert epsilon(1, 1, 1e-5) < epsilon(2, 1, 1e-5) < epsilon(200, 1, 1e-5)
    assert epsilon(3, 4, 1e-5) < epsilon(3, 2, 1e-5) < epsilon(3, 1, 1e-5)


def test_few_sites_and_large_epsilon_are_said() -> None:
    told = promise(PrivacySection(kind="dp", clip=1.0, noise=0.3), rounds=3, sites=3)
    assert told is not None
    assert told.epsilon == pytest.approx(42.845493283868805)
    assert any("Only 3 sites" in warning for warning in told.warnings)
    assert any("next to nothing" in warning and "19 digits" in warning for warning in told.warnings)
    assert "not the coordinator" in told.against


def test_at_the_site_any_two_data_sets_are_neighbours() -> None:
    told = promise(PrivacySection(kind="dp", clip=1.0, noise=8.0, at="site"), rounds=3, sites=40)
    assert told is not None
    assert told.epsilon == pytest.approx(epsilon(3, 4.0, 1e-5))
    assert told.warnings == ()
    assert "coordinator included" in told.against


def test_a_large_delta_is_said() -> None:
    told = promise(PrivacySection(kind="dp", clip=1.0, noise=8.0, delta=0.01), rounds=1, sites=20)
    assert told is not None
    assert any("δ = 0.01" in warning for warning in told.warnings)


def test_other_kinds_promise_nothing() -> None:
    assert promise(PrivacySection(), rounds=3, sites=3) is None
    assert promise(PrivacySection(kind="secagg"), rounds=3, sites=3) is None

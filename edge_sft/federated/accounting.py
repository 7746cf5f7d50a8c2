"""How much differential privacy promises: the ε of repeated Gaussian noise, without subsampling.

Every site takes part in every round, so nothing is gained by chance of being left out, and the accountant is short:
Rényi differential privacy of the Gaussian mechanism, ε(α) = α / (2σ²) a round, which adds up over rounds (Mironov
2017), turned into (ε, δ) by Canonne, Kamath and Steinke 2020, Proposition 12. It is what Google's dp-accounting (which
Flower's ``flwr[dp]`` loads) computes for the same event; tests compare the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_sft.federated_privacy_section import PrivacySection

# dp-accounting's orders, so that equal inputs give equal digits
_ORDERS = (*(1 + step / 10 for step in range(1, 100)), *range(11, 64), 128, 256, 512, 1024)
FEW_SITES = 10  # judgement: below, noise that hides a site also hides what the sites have in common
STRONG, WEAK = 1.0, 10.0  # what ε commonly is called: up to 1 strong, beyond 10 a formality


@dataclass(frozen=True)
class Promise:
    """What a run promises each site.

    Attributes:
        epsilon: No conclusion about a site becomes more than e^ε times likelier by its taking part.
        delta: Except with this probability.
        against: From whom.
        warnings: Why the number says less than it seems, in sentences.
    """

    epsilon: float
    delta: float
    against: str
    warnings: tuple[str, ...]


def epsilon(rounds: int, noise_multiplier: float, delta: float) -> float:
    """Return the ε that ``rounds`` releases with Gaussian noise cost together.

    Args:
        rounds: How often something was released; repeated rounds count.
        noise_multiplier: The noise's standard deviation over the most that one site can change what is released.
        delta: The failure probability that ε is told for.

    Returns:
        ε ≥ 0; infinity without noise, 0 without a release.
    """
    if rounds <= 0:
        return 0.0
    if noise_multiplier <= 0:
        return math.inf
    return max(0.0, min(_at_order(order, rounds / (2 * noise_multiplier**2), delta) for order in _ORDERS))


def _at_order(order: float, rate: float, delta: float) -> float:
    renyi = order * rate
    if delta**2 + math.expm1(-renyi) > 0:  # by Pinsker's kin alone: so little was told that δ covers it
        return 0.0
    return renyi + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


def promise(section: PrivacySection, *, rounds: int, sites: int) -> Promise | None:
    """Return what a recipe's differential privacy promises after so many releases; None for other kinds.

    At the coordinator, neighbours are runs with and without a site's update (it counts as zero): one site changes
    the sum by ``clip``. At the site, neighbours are any two data sets it might have: 2 × ``clip``.
    """
    if section.kind != "dp" or section.noise is None:
        return None
    at_site = section.at == "site"
    value = epsilon(rounds, section.noise / 2 if at_site else section.noise, section.delta)
    against = "everybody, the coordinator included" if at_site else "whoever gets the weights, but not the coordinator"
    return Promise(value, section.delta, against, tuple(_warnings(section, value, sites)))


def _warnings(section: PrivacySection, value: float, sites: int) -> list[str]:
    found = []
    if sites < FEW_SITES:
        found.append(
            f"Only {sites} sites: with so few, noise that hides a site also hides most of what they have in common, "
            "and who took part is known anyway. Read ε as a limit, not as comfort."
        )
    if value > WEAK:
        found.append(
            f"ε = {value:.3g} promises next to nothing: e^ε is {_power(value)}. More noise or fewer rounds lower it."
        )
    if section.delta * sites > 0.1:
        found.append(f"δ = {section.delta:g} is not far below one over the number of sites; take a smaller one.")
    return found


def _power(value: float) -> str:
    return f"{math.exp(value):,.0f}" if value < 20 else f"a number of {int(value / math.log(10)) + 1} digits"

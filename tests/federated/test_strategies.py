"""Averages through Flower's strategies against the arithmetic written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="no Flower: averaging through its strategies is not proved")

from edge_sft.federated.learner import Arrays, Part
from edge_sft.federated.strategies import Memory, average
from edge_sft.federated.vetting import Update
from edge_sft.federated_section import FederatedSection

PARTS: dict[str, Part] = {"body": "body", "norm": "norm"}


def current() -> Arrays:
    rng = np.random.default_rng(0)
    return {"body": rng.normal(0, 1, (4, 8)).astype(np.float32), "norm": np.full(4, 0.01, np.float32)}


def updates(count: int = 5) -> list[Update]:
    rng = np.random.default_rng(1)
    return [
        Update(
            f"s{i}",
            10 * (i + 1),
            {name: (rng.normal(0, 0.01, a.shape)).astype(np.float32) for name, a in current().items()},
            0.5,
            1.0,
        )
        for i in range(count)
    ]


def made(strategy: str, given: list[Update], memory: Memory | None = None, **options: Any) -> tuple[Any, Memory]:
    section = FederatedSection(strategy=strategy, **options)  # type: ignore[arg-type]
    return average(section, 1, current(), given, PARTS, memory or Memory())


def stacked(given: list[Update], name: str) -> np.ndarray:
    return np.stack([current()[name].astype(np.float64) + one.delta[name] for one in given])


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_the_mean_is_numpys(strategy: str) -> None:
    given = updates()
    new, _ = made(strategy, given)
    shares = np.array([one.samples for one in given], dtype=np.float64)
    for name in current():
        wanted = np.tensordot(shares / shares.sum(), stacked(given, name), 1)
        np.testing.assert_allclose(new[name], wanted, rtol=1e-14, atol=1e-16)


def test_sites_count_equally_with_privacy() -> None:
    given = updates()
    new, _ = made("fedavg", given, compression="none", privacy={"kind": "dp", "clip": 1.0, "noise": 1.0})
    np.testing.assert_allclose(new["body"], stacked(given, "body").mean(0), rtol=1e-14)


def test_the_order_of_sites_does_not_change_a_bit() -> None:
    given = updates()
    one, _ = made("fedavg", given)
    other, _ = made("fedavg", list(reversed(given)))
    for name in one:
        assert one[name].tobytes() == other[name].tobytes()


def test_the_median_is_numpys() -> None:
    new, _ = made("fedmedian", updates())
    np.testing.assert_array_equal(new["body"], np.median(stacked(updates(), "body"), axis=0))


def test_the_trimmed_mean_leaves_out_both_ends() -> None:
    new, _ = made("trimmed", updates(), quorum=5)
    np.testing.assert_allclose(new["body"], np.sort(stacked(updates(), "body"), axis=0)[1:-1].mean(0), rtol=1e-14)


def test_krum_takes_one_site_among_those_that_agree() -> None:
    given = updates()
    given[4] = Update("s4", 50, {name: array + 5 for name, array in given[4].delta.items()}, 0.5, 1.0)
    new, _ = made("krum", given, quorum=5, malicious=1)
    assert any(np.array_equal(new["body"], row) for row in stacked(given, "body")[:4])


def test_fedadam_goes_on_from_its_memory_and_leaves_normalisation_positive() -> None:
    given = updates()
    one, memory = made("fedadam", given)
    again, later = made("fedadam", given, memory)
    assert set(memory.first) == {"body"}
    assert not np.array_equal(one["body"], again["body"])
    np.testing.assert_allclose(later.first["body"], 1.9 * memory.first["body"], rtol=1e-6)
    plain, _ = made("fedavg", given)
    np.testing.assert_array_equal(one["norm"], plain["norm"])

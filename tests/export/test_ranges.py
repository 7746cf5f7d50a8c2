from __future__ import annotations

import numpy as np
import pytest

from edge_sft.export.ranges import METHODS, Observed, means, ranges


def seen(*blocks: np.ndarray) -> dict[str, Observed]:
    item = Observed.nothing()
    for block in blocks:
        item.add(block.astype(np.float32))
    return {"x": item}


def test_extremes_are_exact_however_large_the_tensor() -> None:
    values = np.random.default_rng(0).normal(size=(1, 3, 300, 300))
    values[0, 1, 7, 7], values[0, 2, 9, 9] = 1e3, -2e3
    assert ranges(seen(values), "minmax")["x"] == (-2000.0, 1000.0)


def test_later_and_larger_pictures_widen_the_histogram() -> None:
    small, large = np.full((1, 1, 8, 8), 0.5), np.full((1, 1, 8, 8), 900.0)
    item = seen(small, large)["x"]
    assert item.counts.sum() == 128
    assert item.edge >= 900
    assert np.flatnonzero(item.counts).max() == int(900 / item.edge * len(item.counts))


@pytest.mark.parametrize("method", METHODS)
def test_ranges_lie_within_what_was_seen(method: str) -> None:
    random = np.random.default_rng(1)
    for values in (random.normal(size=(1, 4, 64, 64)), random.uniform(0, 6, (1, 4, 64, 64)), np.zeros((1, 2))):
        low, high = ranges(seen(values), method)["x"]  # type: ignore[arg-type]
        assert float(np.float32(values.min())) <= low <= high <= float(np.float32(values.max()))


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_a_lone_outlier_does_not_eat_the_resolution(method: str) -> None:
    values = np.random.default_rng(2).normal(size=(1, 1, 120, 120))
    values[0, 0, 0, 0] = 500.0
    _, high = ranges(seen(values), method)["x"]  # type: ignore[arg-type]
    assert high < 50  # entropy keeps at least 128 of 2048 bins


def test_channel_means_are_over_pictures_and_places() -> None:
    first, second = np.zeros((1, 2, 4, 4)), np.zeros((1, 2, 4, 4))
    second[:, 1] = 3.0
    assert means(seen(first, second))["x"].tolist() == [0.0, 1.5]

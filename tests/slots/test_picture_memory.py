"""What is remembered of good pictures, and the threshold that comes with it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_sft.errors import DataError
from edge_sft.memory_layout import Layout, top_count
from edge_sft.slots import picture_memory

LAYOUT = Layout(places=9, features=12, width=6, examples=20)


def pictures(count: int, seed: int = 0, shift: float = 0.0) -> NDArray[np.float16]:
    """Features of pictures that differ along a few directions, each place with a centre of its own."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(6, 12))
    centres = np.random.default_rng(98).normal(size=(9, 12)) * 3
    made = centres + rng.normal(size=(count, 9, 6)) @ directions + 0.05 * rng.normal(size=(count, 9, 12))
    made[:, 4] += shift
    return made.astype(np.float16)


def groups(count: int) -> list[str]:
    return [f"part-{index // 2}" for index in range(count)]


def test_a_place_that_is_unlike_good_ones_is_found_where_it_is() -> None:
    memory = picture_memory.fit(pictures(200), groups(200), LAYOUT, rate=0.05)
    scores, cells = picture_memory.score(pictures(50, 1, shift=6.0), memory.bank, LAYOUT)
    assert (scores > 1).all()
    assert (cells.argmax(axis=1) == 4).all()


def test_fresh_good_pictures_are_rejected_as_often_as_asked() -> None:
    memory = picture_memory.fit(pictures(400), groups(400), LAYOUT, rate=0.05)
    fresh, _ = picture_memory.score(pictures(2000, 1), memory.bank, LAYOUT)
    assert 0.02 < float((fresh >= 1).mean()) < 0.08


def test_the_same_pictures_give_the_same_bytes() -> None:
    first, again = (picture_memory.fit(pictures(60), groups(60), LAYOUT, rate=0.05) for _ in range(2))
    assert first.bank.tobytes() == again.bank.tobytes()
    assert first.bank.shape == (LAYOUT.rows, LAYOUT.width)
    assert np.isfinite(first.bank).all()


@pytest.mark.parametrize(
    ("count", "rate", "enough"), [(98, 0.01, False), (99, 0.01, True), (18, 0.05, False), (0, 0.5, False)]
)
def test_a_rate_that_so_few_pictures_cannot_support_is_refused(count: int, rate: float, enough: bool) -> None:
    if enough:
        picture_memory.require_enough(count, rate)
        return
    with pytest.raises(DataError, match="false-reject rate of"):
        picture_memory.require_enough(count, rate)


def test_the_conformal_bound_is_the_order_statistic() -> None:
    scores = np.arange(1.0, 100.0)  # 99 of them
    assert picture_memory.conformal(scores, 0.01) == 99
    assert picture_memory.conformal(scores, 0.1) == 90


def test_mislabelled_pictures_are_left_out_and_named() -> None:
    good, bad = pictures(100), pictures(10, 2)
    rng = np.random.default_rng(3)
    for one in bad:  # no two defects are alike
        one[rng.integers(9)] += (12 * rng.normal(size=12)).astype(np.float16)
    mixed = np.concatenate([good, bad])
    cleaned = picture_memory.fit(mixed, groups(110), LAYOUT, rate=0.05)
    assert not cleaned.kept[100:].any()
    assert cleaned.kept[:100].mean() > 0.95
    assert "left out" in cleaned.facts[0]
    as_given = picture_memory.fit(mixed, groups(110), LAYOUT, rate=0.05, clean=False)
    assert as_given.kept.all()
    fresh = pictures(100, 3, shift=3.0)
    found = [(picture_memory.score(fresh, memory.bank, LAYOUT)[0] >= 1).mean() for memory in (cleaned, as_given)]
    assert found[0] > found[1]


def test_tiles_share_one_gaussian() -> None:
    memory = picture_memory.fit(pictures(80), groups(80), LAYOUT, rate=0.05, alike=True)
    _, centres, whitening, _, _ = LAYOUT.cut(memory.bank)
    assert np.ptp(centres, axis=0).max() < 1e-5
    assert np.ptp(whitening, axis=0).max() == 0


def test_pictures_of_one_part_cannot_judge_each_other() -> None:
    with pytest.raises(DataError, match="of one group"):
        picture_memory.fit(pictures(30), ["one"] * 30, LAYOUT, rate=0.05)


def test_a_map_that_never_changes_does_not_break_it() -> None:
    memory = picture_memory.fit(np.ones((30, 9, 12), np.float16), groups(30), LAYOUT, rate=0.05)
    assert np.isfinite(memory.bank).all()


def test_the_score_is_of_the_highest_places() -> None:
    assert [top_count(places) for places in (4, 49, 196, 1000)] == [1, 1, 4, 20]


def test_features_that_are_no_numbers_are_refused() -> None:
    made = pictures(40)
    made[7, 3, 2] = np.inf
    with pytest.raises(DataError, match="half precision"):
        picture_memory.fit(made, groups(40), LAYOUT, rate=0.05)

"""How far apart two answers are, boxes in whatever order they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_sft.bundle import comparing


def answer(*rows: tuple[float, float, float, float, float, int]) -> dict[str, NDArray[Any]]:
    padded = [*rows, *[(0.0, 0.0, 0.0, 0.0, 0.0, 0)] * (4 - len(rows))]
    return {
        "boxes": np.array([[row[:4] for row in padded]], dtype=np.float32),
        "scores": np.array([[row[4] for row in padded]], dtype=np.float32),
        "labels": np.array([[row[5] for row in padded]], dtype=np.int32),
    }


BIG = (0.0, 0.0, 10.0, 10.0, 0.9, 0)
SMALL = (20.0, 20.0, 24.0, 24.0, 0.6, 1)


def test_the_order_of_boxes_does_not_matter() -> None:
    want, got = answer(BIG, SMALL), answer(SMALL, BIG)
    assert comparing.difference(want, got, comparing.scales(want)) == 0


@pytest.mark.parametrize(
    ("got", "apart"),
    [
        (answer((0, 0, 10, 10, 0.8, 0), SMALL), 0.1),  # another score
        (answer(BIG), 0.6),  # one is missing
        (answer(BIG, SMALL, (40, 40, 50, 50, 0.3, 0)), 0.3),  # one too many
        (answer((0, 0, 10, 10, 0.9, 1), SMALL), 0.9),  # another label
        (answer((0, 0, 10, 8, 0.9, 0), SMALL), 0.18),  # another place: overlaps by 0.8
        (answer(BIG, SMALL, (40, 40, 50, 50, 0.04, 0)), 0.0),  # noise
    ],
)
def test_a_box_differs_by_score_and_place(got: dict[str, NDArray[Any]], apart: float) -> None:
    want = answer(BIG, SMALL)
    assert comparing.difference(want, got, comparing.scales(want)) == pytest.approx(apart, abs=1e-6)
    assert comparing.difference(got, want, comparing.scales(want)) == pytest.approx(apart, abs=1e-6)


def test_nothing_found_on_both_sides_is_no_difference() -> None:
    assert comparing.difference(answer(), answer(), comparing.scales(answer())) == 0


def test_maps_are_counted_in_shares_of_their_largest_value() -> None:
    want = {"score": np.array([2.0, 4.0]), "anomaly_map": np.array([[[0.0, 8.0]], [[1.0, 2.0]]])}
    got = {"score": np.array([2.0, 4.4]), "anomaly_map": want["anomaly_map"] + 0.4, "features": np.zeros((2, 1, 1))}
    assert comparing.difference(want, got, comparing.scales(want)) == pytest.approx(0.1)
    got["score"][0] = np.nan
    assert np.isnan(comparing.difference(want, got, comparing.scales(want)))


def test_overlap_of_empty_boxes_is_zero() -> None:
    empty = np.zeros((1, 4), dtype=np.float32)
    assert comparing.overlap(empty, empty)[0, 0] == 0

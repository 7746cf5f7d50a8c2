"""Rows put into order within the stated window, at any cutting and across a save."""

from __future__ import annotations

import numpy as np
import pytest

from edge_sft.runtime.lateness import Reorder, Row


def _pushed(order: Reorder, times: list[float], piece: int = 1) -> list[float]:
    out: list[Row] = []
    for at in range(0, len(times), piece):
        part = np.array(times[at : at + piece])
        out += order.push(part, part[:, None])
    return [moment for moment, _ in out]


def test_without_a_window_rows_go_on_as_they_came() -> None:
    order = Reorder(0.0, 60.0)
    assert _pushed(order, [3, 1, 2]) == [3, 1, 2]
    assert order.late == 0
    assert len(order) == 0


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_late_by_less_than_the_window_is_in_order_and_nothing_is_lost(piece: int) -> None:
    rng = np.random.default_rng(1)
    times = np.sort(rng.uniform(0, 100, 1000))
    came = times[np.argsort(times + rng.uniform(0, 1.99, 1000))]
    order = Reorder(2.0, 60.0)
    out = _pushed(order, came.tolist(), piece)
    out += [moment for moment, _ in order.drain()]
    assert out == sorted(times.tolist())
    assert order.late == 0


def test_later_than_the_window_is_left_out_and_counted() -> None:
    order = Reorder(1.0, 60.0)
    assert _pushed(order, [0, 1, 2, 3, 1.5, 4]) == [0, 1, 2, 3]
    assert order.late == 1


def test_three_rows_of_yesterday_are_a_clock_set_back_and_two_are_not() -> None:
    order = Reorder(1.0, 60.0)
    assert _pushed(order, [1000, 1001, 1002, 5, 6, 1003, 1004]) == [1000, 1001, 1002, 1003]
    assert (order.late, order.jumps) == (2, 0)
    assert _pushed(order, [10, 11, 12, 13, 14]) == [1004, 10, 11, 12, 13]
    assert (order.late, order.jumps) == (2, 1)


def test_it_goes_on_from_a_save_at_any_row() -> None:
    rng = np.random.default_rng(2)
    times = np.sort(rng.uniform(0, 50, 300))
    came = times[np.argsort(times + rng.uniform(0, 3, 300))].tolist()
    came[150:150] = [-500.0, -499.0]
    whole = Reorder(2.0, 60.0)
    want = _pushed(whole, came)
    for cut in (0, 1, 100, 151, 152, 299):
        first, second = Reorder(2.0, 60.0), Reorder(2.0, 60.0)
        out = _pushed(first, came[:cut])
        second.restore(first.state(1))
        assert out + _pushed(second, came[cut:]) == want
        assert (second.late, second.jumps) == (whole.late, whole.jumps)


def test_a_time_that_is_none_holds_nobody() -> None:
    order = Reorder(1.0, 60.0)
    out = _pushed(order, [1.0, float("nan"), float("inf"), 2.0, 3.0])
    assert [one for one in out if np.isfinite(one)] == [1.0, 2.0]

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_sft.errors import DataError
from edge_sft.preprocess import Channel, Windowing
from edge_sft.preprocess.gridding import Grid, Gridder, grid_run, rows_of

START = 1.7e9


def windowing(channels: int = 1, **settings: Any) -> Windowing:
    names = tuple(Channel(name=f"c{i}") for i in range(channels))
    return Windowing(**{"channels": names, "period_s": 1.0, "length": 4, **settings})


def rows(*moments: float, value: float | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows at these seconds after the start whose values are 1, 2, 3…"""
    values = np.arange(1.0, len(moments) + 1) if value is None else np.full(len(moments), value)
    return START + np.array(moments), values[:, None]


def shown(grid: Grid) -> list[float | None]:
    """Return the first column, None where it is not valid."""
    return [float(v) if ok else None for v, ok in zip(grid.values[:, 0], grid.valid[:, 0], strict=True)]


def kinds(gridder: Gridder) -> list[str]:
    return [kind for kind, _ in gridder.facts]


def test_regular_rows_keep_a_cell_each() -> None:
    grid = grid_run(windowing(), *rows(0, 1, 2, 3))
    assert shown(grid) == [1, 2, 3, 4]
    assert grid.index.tolist() == [0, 1, 2, 3]
    assert (grid.time - START).tolist() == [0, 1, 2, 3]
    assert grid.run.tolist() == [0, 0, 0, 0]
    assert (grid.values.dtype, grid.valid.dtype, grid.index.dtype) == (np.float32, np.float32, np.int64)


def test_rows_that_jitter_keep_a_cell_each() -> None:
    rng = np.random.default_rng(0)
    moments = np.arange(10000) * 0.1 + rng.uniform(-0.02, 0.02, 10000)
    grid = grid_run(windowing(period_s=0.1), START + moments, np.arange(10000.0)[:, None])
    assert grid.values[:, 0].tolist() == list(range(10000))


def test_a_cell_is_not_shown_before_it_is_over() -> None:
    gridder = Gridder(windowing())
    assert len(gridder.push(*rows(0))) == 0
    assert len(gridder.push(*rows(0.4))) == 0
    assert shown(gridder.push(*rows(1))) == [1]
    assert shown(gridder.flush()) == [1]
    assert len(gridder.flush()) == 0


def test_several_rows_in_a_cell() -> None:
    some = rows(0, 0.6, 0.8, 1.0, 1.4, 1.5)
    assert shown(grid_run(windowing(), *some)) == [1, 5, 6]
    assert shown(grid_run(windowing(aggregate="mean"), *some)) == [1, 3.5, 6]


def test_a_value_that_did_not_come_does_not_hide_one_that_did() -> None:
    time, values = rows(0, 1.0, 1.2)
    values[2] = np.nan
    assert shown(grid_run(windowing(), time, values)) == [1, 2]
    assert shown(grid_run(windowing(aggregate="mean"), time, values)) == [1, 2]


def test_nothing_stands_in_by_default() -> None:
    assert shown(grid_run(windowing(), *rows(0, 3))) == [1, None, None, 2]


def test_a_value_stands_in_for_hold_s() -> None:
    assert shown(grid_run(windowing(hold_s=2), *rows(0, 4))) == [1, 1, 1, None, 2]
    tenth = windowing(hold_s=0.3, period_s=0.1)  # 0.3 / 0.1 is less than 3
    assert shown(grid_run(tenth, *rows(0, 0.4))) == [1, 1, 1, 1, 2]


def test_a_burst_of_nan_in_one_channel_leaves_the_other_alone() -> None:
    time = START + np.arange(6.0)
    values = np.stack([np.arange(6.0), np.arange(6.0)], axis=1)
    values[2:4, 0] = np.nan
    grid = grid_run(windowing(2), time, values)
    assert grid.valid.tolist() == [[1, 1], [1, 1], [0, 1], [0, 1], [1, 1], [1, 1]]
    assert not grid.values[2:4, 0].any()


def test_a_missing_channel_is_never_valid_and_the_rest_goes_on() -> None:
    values = np.stack([np.full(5, np.nan), np.arange(5.0)], axis=1)
    grid = grid_run(windowing(2, hold_s=3), START + np.arange(5.0), values)
    assert not grid.valid[:, 0].any()
    assert grid.valid[:, 1].all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39, -5.1, 80.1])
def test_what_cannot_be_is_not_valid(value: float) -> None:
    limited = windowing(channels=1).model_copy(update={"channels": (Channel(name="t", low=-5, high=80),)})
    time, values = rows(0, 1, 2)
    values[1] = value
    assert shown(grid_run(limited, time, values)) == [1, None, 3]
    if not np.isfinite(value) or abs(value) > 1e38:
        assert shown(grid_run(windowing(), time, values)) == [1, None, 3]


def test_the_limits_themselves_can_be() -> None:
    limited = windowing().model_copy(update={"channels": (Channel(name="t", low=1, high=3),)})
    assert shown(grid_run(limited, *rows(0, 1, 2))) == [1, 2, 3]


def test_the_age_counts_since_the_run_began() -> None:
    grid = grid_run(windowing(age=True, age_unit=60, length=100), *rows(0, 60, 119.8))
    assert grid.values[[0, 60, 120], 1].tolist() == [0, 1, 2]
    assert grid.valid[:, 1].all()


def test_a_gap_begins_a_new_run() -> None:
    gridder = Gridder(windowing(gap_s=10, age=True, hold_s=2))
    grid = Grid.joined([gridder.push(*rows(0, 1, 12.3, 13.3)), gridder.flush()], 2)
    assert shown(grid) == [1, 2, 3, 4]
    assert grid.run.tolist() == [0, 0, 1, 1]
    assert grid.index.tolist() == [0, 1, 0, 1]
    assert grid.values[:, 1].tolist() == [0, 1, 0, 1]
    assert (grid.time - START).round(6).tolist() == [0, 1, 12.3, 13.3]
    assert kinds(gridder) == ["gap"]


def test_a_gap_below_the_step_is_refused() -> None:
    with pytest.raises(ValueError, match="every row would begin a new run"):
        windowing(gap_s=0.5)


def test_a_silence_of_ten_years_costs_no_memory_and_not_the_age() -> None:
    gridder = Gridder(windowing(age=True, period_s=0.001))
    later = 10 * 365 * 86400.0
    grid = Grid.joined([gridder.push(*rows(0, 0.001, later, later + 0.001)), gridder.flush()], 2)
    assert shown(grid) == [1, 2, 3, 4]
    assert grid.run.tolist() == [0, 0, 1, 1]
    assert grid.values[2, 1] == np.float32(later)
    assert kinds(gridder) == ["gap"]


def test_a_clock_that_jumps_back_a_day_begins_a_new_run() -> None:
    gridder = Gridder(windowing(age=True))
    moments = [*range(20), *(second - 86400 for second in range(20, 40))]
    grid = Grid.joined([gridder.push(*rows(*moments)), gridder.flush()], 2)
    assert shown(grid) == [*range(1, 21), *range(23, 41)]  # two rows went to prove it
    assert grid.run.tolist() == [0] * 20 + [1] * 18
    assert grid.values[20, 1] == 0
    assert gridder.facts[0] == ("clock", "the clock went back by 1 day: a new run begins")
    assert kinds(gridder) == ["clock", "late"]


def test_a_clock_is_told_in_days_and_other_counts_as_they_count() -> None:
    gridder = Gridder(windowing(gap_s=600))
    gridder.push(*rows(0, 1, 3601, *(k - 86400 for k in range(4))))
    sentences = [sentence for _, sentence in gridder.facts]
    assert sentences[0] == "silent for 1 hour, which is longer than gap_s (600): a new run begins"
    assert sentences[1] == "the clock went back by 1.04 days: a new run begins"


def test_one_stray_row_of_yesterday_moves_nothing() -> None:
    gridder = Gridder(windowing())
    grid = Grid.joined([gridder.push(*rows(0, 1, 2 - 86400, 3, 4 - 86400, 5)), gridder.flush()], 1)
    assert shown(grid) == [1, 2, None, 4, None, 6]
    assert kinds(gridder) == ["late"]


def test_old_rows_that_do_not_follow_each_other_are_no_clock() -> None:
    gridder = Gridder(windowing())
    gridder.push(*rows(1e6, 1e6 - 1000, 1e6 - 5000, 1e6 - 9000, 1e6 - 20000))
    assert kinds(gridder) == ["late"]


def test_a_late_row_is_left_out_and_told() -> None:
    gridder = Gridder(windowing())
    grid = Grid.joined([gridder.push(*rows(0, 1, 3, 2, 4)), gridder.flush()], 1)
    assert shown(grid) == [1, 2, None, 3, 5]
    assert gridder.facts[-1] == ("late", "1 rows came after their time was over and were left out")


def test_a_row_may_be_out_of_order_within_the_open_cell() -> None:
    assert shown(grid_run(windowing(), *rows(0, 1.2, 0.9, 2))) == [1, 3, 4]


def test_rows_without_a_usable_time_are_left_out_and_told() -> None:
    gridder = Gridder(windowing())
    grid = Grid.joined([gridder.push(*rows(0, np.nan, np.inf, 1e300, 1)), gridder.flush()], 1)
    assert shown(grid) == [1, 5]
    assert kinds(gridder) == ["time"]


def test_no_rows_give_no_cells() -> None:
    gridder = Gridder(windowing(age=True))
    none = gridder.push(np.zeros(0), np.zeros((0, 1)))
    assert len(none) == 0
    assert none.values.shape == (0, 2)
    assert len(gridder.flush()) == 0
    assert len(gridder.advance(START)) == 0
    assert len(grid_run(windowing(), np.full(3, np.nan), np.zeros((3, 1)))) == 0


def test_silence_completes_what_may_stand_in_and_no_more() -> None:
    gridder = Gridder(windowing(hold_s=2))
    gridder.push(*rows(0, 1))
    assert len(gridder.advance(START + 1.4)) == 0
    assert shown(gridder.advance(START + 1.6)) == [1 + 1]
    assert shown(gridder.advance(START + 3.6)) == [2, 2]
    assert len(gridder.advance(START + 3600)) == 0
    assert len(gridder.advance(np.nan)) == 0
    assert len(gridder.advance(START - 86400)) == 0
    late = gridder.push(*rows(2.0, 6.0, value=9))
    assert shown(late) == [None, None]
    assert kinds(gridder) == ["late"]
    assert shown(gridder.flush()) == [9]


def test_a_stuck_sensor_is_not_used_until_it_moves() -> None:
    gridder = Gridder(windowing().model_copy(update={"channels": (Channel(name="flow", stuck_s=3),)}))
    time, values = rows(0, 1, 2, 3, 4, 5, 6, 7)
    values[1:6] = 2.0
    grid = gridder.push(time[:6], values[:6])
    assert gridder.stuck == ("flow",)
    grid = Grid.joined([grid, gridder.push(time[6:], values[6:]), gridder.flush()], 1)
    assert shown(grid) == [1, 2, 2, 2, None, None, 7, 8]
    assert gridder.stuck == ()
    assert list(gridder.facts) == [("stuck", "flow stands still and is not used"), ("moving", "flow moves again")]


def test_silence_is_no_proof_of_a_stuck_sensor() -> None:
    gridder = Gridder(windowing(gap_s=10).model_copy(update={"channels": (Channel(name="flow", stuck_s=3),)}))
    grid = Grid.joined([gridder.push(*rows(0, 1, 100, 101, value=7)), gridder.flush()], 1)
    assert shown(grid) == [7, 7, 7, 7]


@pytest.mark.parametrize("size", [1, 2, 9])
def test_a_stuck_channel_that_says_nothing_is_still_stuck(size: int) -> None:
    gridder = Gridder(windowing().model_copy(update={"channels": (Channel(name="flow", stuck_s=3),)}))
    time, values = rows(*range(9), value=7.0)
    values[6:] = np.nan
    for start in range(0, 9, size):
        gridder.push(time[start : start + size], values[start : start + size])
    assert gridder.stuck == ("flow",)
    assert kinds(gridder) == ["stuck"]


def test_a_channel_that_says_nothing_is_not_stuck() -> None:
    gridder = Gridder(windowing().model_copy(update={"channels": (Channel(name="flow", stuck_s=3),)}))
    gridder.push(START + np.arange(20.0), np.full((20, 1), np.nan))
    assert gridder.stuck == ()


@pytest.mark.parametrize(
    ("time", "values"),
    [(np.zeros(2), np.zeros((3, 1))), (np.zeros(2), np.zeros((2, 2))), (np.zeros((2, 1)), np.zeros((2, 1)))],
)
def test_rows_that_do_not_fit_are_refused(time: Any, values: Any) -> None:
    with pytest.raises(DataError, match="shape"):
        Gridder(windowing()).push(time, values)


def test_a_state_of_another_windowing_is_refused() -> None:
    state = Gridder(windowing()).state()
    with pytest.raises(DataError, match="another windowing"):
        Gridder.restore(windowing(length=5), state)


@pytest.mark.parametrize("name", list(Gridder(windowing()).state()))
def test_a_damaged_state_is_refused(name: str) -> None:
    gridder = Gridder(windowing())
    gridder.push(*rows(0, 1))
    state = gridder.state()
    Gridder.restore(windowing(), state)
    del state[name]
    with pytest.raises(DataError, match="damaged"):
        Gridder.restore(windowing(), state)
    with pytest.raises(DataError, match=r"damaged|another"):
        Gridder.restore(windowing(), {**gridder.state(), name: np.zeros((7, 9))})


def test_the_row_that_a_step_knows_last() -> None:
    time, values = rows(0, 0.8, 1.0, 3.0)
    assert rows_of(grid_run(windowing(), time, values), time).tolist() == [0, 2, 2, 3]


def test_what_was_given_is_not_changed() -> None:
    channel = Channel(name="c", low=0, high=2, stuck_s=1)
    time, values = rows(0, 1, 2, 3, value=1.0)
    values[1] = 5
    before = values.copy()
    gridder = Gridder(windowing().model_copy(update={"channels": (channel,)}))
    for row in range(4):
        gridder.push(time[row : row + 1], values[row : row + 1])
    gridder.push(time + 10, values)
    assert (values == before).all()


def test_scale_and_offset_bring_rows_into_the_channels_unit_before_its_limits() -> None:
    channel = Channel(name="c0", unit="°C", low=-1, high=40, scale=5 / 9, offset=-160 / 9)
    moments = START + np.arange(4.0)
    fahrenheit = np.array([[32.0], [50.0], [212.0], [68.0]])
    whole = grid_run(Windowing(channels=(channel,), period_s=1.0, length=4), moments, fahrenheit)
    assert shown(whole) == pytest.approx([0.0, 10.0, None, 20.0], abs=1e-6)
    gridder = Gridder(Windowing(channels=(channel,), period_s=1.0, length=4))
    pieces = Grid.joined(
        [*(gridder.push(moments[i : i + 1], fahrenheit[i : i + 1]) for i in range(4)), gridder.flush()], 1
    )
    assert pieces.values.tobytes() == whole.values.tobytes()
    assert fahrenheit[0, 0] == 32.0, "the rows themselves stay as they came"


def test_a_scale_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="scale must not be 0"):
        Channel(name="c0", scale=0.0)

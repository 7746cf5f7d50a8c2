from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_sft.errors import DataError
from edge_sft.preprocess import Channel, Windowing
from edge_sft.preprocess.buffering import WindowBuffer
from edge_sft.preprocess.cutting import cut, ends_of, grid_run
from edge_sft.preprocess.gridding import Grid


def windowing(channels: int = 1, **settings: Any) -> Windowing:
    names = tuple(Channel(name=f"c{i}") for i in range(channels))
    return Windowing(**{"channels": names, "period_s": 1.0, "length": 4, "min_valid": 0.0, **settings})


def counted(rows: int, **settings: Any) -> tuple[Windowing, Grid]:
    """A grid whose values are 1, 2, 3…"""
    how = windowing(**settings)
    return how, grid_run(how, np.arange(float(rows)), np.arange(1.0, rows + 1)[:, None])


def test_a_window_at_every_step_padded_in_front() -> None:
    how, grid = counted(5)
    ends = ends_of(how, grid)
    values, valid = cut(how, grid, ends)
    assert ends.tolist() == [0, 1, 2, 3, 4]
    assert values[:, :, 0].tolist() == [[0, 0, 0, 1], [0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]
    assert (valid == (values > 0)).all()
    assert values.dtype == valid.dtype == np.float32


@pytest.mark.parametrize(("min_valid", "first"), [(0.0, 0), (0.25, 0), (0.26, 1), (0.5, 1), (0.75, 2), (1.0, 3)])
def test_a_window_needs_its_share_of_valid_values(min_valid: float, first: int) -> None:
    how, grid = counted(8, min_valid=min_valid)
    assert ends_of(how, grid)[0] == first


@pytest.mark.parametrize("length", [3, 7, 10, 30, 49])
@pytest.mark.parametrize("tenths", range(1, 11))
def test_a_share_is_not_missed_by_rounding(length: int, tenths: int) -> None:
    how, grid = counted(60, length=length, min_valid=tenths / 10)
    assert ends_of(how, grid)[0] == -(-length * tenths // 10) - 1


def test_seven_per_cent_of_a_hundred_are_seven() -> None:
    how, grid = counted(60, length=100, min_valid=0.07)  # 0.07 × 100 is 7.000000000000001
    assert ends_of(how, grid)[0] == 6
    assert len(WindowBuffer(how, "pump").push(grid)) == 54


def test_the_age_alone_makes_no_window() -> None:
    how = windowing(age=True, min_valid=0.01)
    grid = grid_run(how, np.arange(9.0), np.full((9, 1), np.nan))
    assert grid.valid[:, 1].all()
    assert not len(ends_of(how, grid))
    assert not WindowBuffer(how, "pump").push(grid)


def test_a_hop_of_the_length_tiles_the_run() -> None:
    how, grid = counted(13, hop=4)
    ends = ends_of(how, grid)
    assert ends.tolist() == [3, 7, 11]
    values, _ = cut(how, grid, ends)
    assert values.reshape(-1).tolist() == list(range(1, 13))


def test_no_window_reaches_into_another_run() -> None:
    how = windowing(gap_s=10, hop=2)
    grid = grid_run(how, np.array([0.0, 1, 2, 50, 51, 52]), np.arange(1.0, 7)[:, None])
    ends = ends_of(how, grid)
    assert ends.tolist() == [1, 4]
    assert cut(how, grid, ends)[0][:, :, 0].tolist() == [[0, 0, 1, 2], [0, 0, 4, 5]]


def test_only_the_ends_asked_for_are_cut() -> None:
    how, grid = counted(6)
    values, valid = cut(how, grid, np.array([5, 0]))
    assert values[:, :, 0].tolist() == [[3, 4, 5, 6], [0, 0, 0, 1]]
    assert valid[1, :, 0].tolist() == [0, 0, 0, 1]
    assert cut(how, grid, np.zeros(0, np.int64))[0].shape == (0, 4, 1)


def test_an_empty_grid_has_no_windows() -> None:
    how = windowing()
    grid = grid_run(how, np.zeros(0), np.zeros((0, 1)))
    assert ends_of(how, grid).shape == (0,)
    assert cut(how, grid, ends_of(how, grid))[0].shape == (0, 4, 1)
    assert WindowBuffer(how, "pump").push(grid) == []


def test_a_window_is_the_callers() -> None:
    how, grid = counted(5)
    buffer = WindowBuffer(how, "pump")
    windows = buffer.push(grid)
    before = windows[3].values.copy()
    windows[4].values[:] = -1
    assert (windows[3].values == before).all()
    more = buffer.push(grid_run(how, np.arange(5.0), np.arange(1.0, 6)[:, None]))
    assert more[-1].values[:, 0].tolist() == [2, 3, 4, 5]
    assert more[0].asset == "pump"


def test_a_state_of_another_windowing_is_refused() -> None:
    how, grid = counted(5)
    buffer = WindowBuffer(how, "pump")
    buffer.push(grid)
    state = buffer.state()
    for other in (windowing(length=3), windowing(channels=2)):
        with pytest.raises(DataError, match="another windowing"):
            WindowBuffer.restore(other, "pump", state)


@pytest.mark.parametrize("name", ["run", "values", "valid"])
def test_a_damaged_state_is_refused(name: str) -> None:
    how, grid = counted(5)
    buffer = WindowBuffer(how, "pump")
    buffer.push(grid)
    state = buffer.state()
    del state[name]
    with pytest.raises(DataError, match="damaged"):
        WindowBuffer.restore(how, "pump", state)


def test_a_long_stream_keeps_no_more_than_it_needs() -> None:
    how, grid = counted(20_000)
    buffer = WindowBuffer(how, "pump")
    windows = buffer.push(grid)
    assert len(windows) == 20_000
    assert windows[-1].values[:, 0].tolist() == [19997, 19998, 19999, 20000]
    assert buffer.state()["values"].shape == (4, 1)

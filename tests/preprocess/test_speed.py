"""Guards against a loop where arrays belong; processor time, the best of several, with room for slow machines."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

import numpy as np

from edge_sft.preprocess import Channel, Windowing
from edge_sft.preprocess.buffering import WindowBuffer
from edge_sft.preprocess.gridding import Gridder, grid_run


def best_s(work: Callable[[], object], times: int) -> float:
    spent = []
    for _ in range(times):
        begin = process_time()
        work()
        spent.append(process_time() - begin)
    return min(spent)


def test_forty_seconds_of_vibration_are_gridded_at_once() -> None:
    how = Windowing(channels=(Channel(name="g", stuck_s=0.1),), period_s=1 / 12000, length=4096, hop=2048)
    time, values = np.arange(480_000) / 12000, np.random.default_rng(0).normal(size=(480_000, 1))
    assert best_s(lambda: grid_run(how, time, values), 3) < 1.0  # measured: 0.06 s
    grid = grid_run(how, time, values)
    assert best_s(lambda: WindowBuffer(how, "pump").push(grid), 3) < 0.5  # measured: 0.01 s


def test_one_row_of_one_asset_costs_little() -> None:
    how = Windowing(
        channels=tuple(Channel(name=f"c{i}") for i in range(20)), period_s=0.1, length=60, hop=10, hold_s=0.3
    )
    values = np.random.default_rng(0).normal(size=(1, 20))
    gridder, buffer = Gridder(how), WindowBuffer(how, "pump")
    row = iter(range(100_000))

    def rows() -> None:
        for _ in range(200):
            buffer.push(gridder.push(np.array([next(row) * 0.1]), values))

    assert best_s(rows, 10) / 200 < 250e-6  # measured: 55 µs


def test_rows_in_no_order_cost_time_and_not_for_ever() -> None:
    how = Windowing(channels=(Channel(name="c"),), period_s=1.0, length=60)
    rng = np.random.default_rng(0)
    time, values = rng.permutation(50_000).astype(np.float64), np.zeros((50_000, 1))
    assert best_s(lambda: grid_run(how, time, values), 1) < 5.0  # measured: 0.2 s


def test_every_row_a_new_run_costs_time_and_not_for_ever() -> None:
    how = Windowing(channels=(Channel(name="c"),), period_s=1.0, length=60, gap_s=5.0)
    time, values = np.arange(3_000) * 10.0, np.zeros((3_000, 1))
    assert best_s(lambda: grid_run(how, time, values), 1) < 3.0  # measured: 0.2 s

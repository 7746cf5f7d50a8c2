from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_sft.preprocess import Channel, OrderTracking, Windowing
from edge_sft.preprocess.cutting import cut, ends_of
from edge_sft.preprocess.gridding import Grid, Gridder, grid_run

RATE = 12_000
LINE = 5.43  # of a bearing: events a turn


def windowing(samples: int = 256, **settings: Any) -> Windowing:
    channels = (Channel(name="vibration", unit="g"), Channel(name="speed", unit="rpm"))
    order = OrderTracking(speed_channel="speed", samples_per_revolution=samples)
    return Windowing(
        **{"channels": channels, "period_s": 1 / RATE, "length": 4096, "hop": 4096, "order": order, **settings}
    )


def machine(seconds: float, low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A shaft that runs up, and a bearing that knocks with it."""
    time = 1.7e9 + np.arange(int(seconds * RATE)) / RATE
    speed = np.linspace(low, high, len(time))
    angle = np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 120 / RATE)])
    return time, np.stack([np.sin(2 * np.pi * LINE * angle), speed], axis=1)


def line_of(signal: NDArray[Any], samples: int) -> tuple[float, float]:
    """Return the strongest line in events a turn, and its share of the spectrum's energy (three bins)."""
    spectrum = np.abs(np.fft.rfft((signal - signal.mean()) * np.hanning(len(signal)))) ** 2
    peak = int(spectrum.argmax())
    return peak / (len(signal) / samples), float(spectrum[peak - 2 : peak + 3].sum() / spectrum.sum())


@pytest.mark.parametrize("aggregate", ["last", "mean"])
def test_a_line_stays_where_the_bearing_puts_it_whatever_the_speed(aggregate: str) -> None:
    how = windowing(aggregate=aggregate)
    time, values = machine(4, 600, 1800)
    assert line_of(values[-16384:, 0], RATE)[1] < 0.6  # against the clock the line is smeared
    grid = grid_run(how, time, values)
    windows, valid = cut(how, grid, ends_of(how, grid))
    assert valid.all()
    for window in windows:
        line, share = line_of(window[:, 0], 256)
        assert line == pytest.approx(LINE, abs=256 / 4096)
        assert share > 0.99


def test_steps_are_equal_angles_with_the_time_when_they_were() -> None:
    time = np.arange(0.0, 10.0, 0.5)
    values = np.stack([time * 3, np.full(len(time), 60.0)], axis=1)  # a turn a second, a step 0.1 s
    grid = grid_run(windowing(10, age=True), time, values)
    assert grid.index.tolist() == list(range(96))
    assert grid.time == pytest.approx(np.arange(96) / 10)
    assert grid.values[:, 0] == pytest.approx(0.3 * np.arange(96), rel=1e-6)
    assert grid.values[:, 2] == pytest.approx(np.arange(96) / 10)


def test_the_mean_keeps_what_is_faster_than_the_steps_from_folding_back() -> None:
    time = np.arange(0, 20.0, 1 / 1000)
    values = np.stack([np.sin(2 * np.pi * 100.1 * time), np.full(len(time), 60.0)], axis=1)  # 10 samples a turn
    last = grid_run(windowing(10), time, values)
    mean = grid_run(windowing(10, aggregate="mean"), time, values)
    assert mean.values[5:-5, 0].std() < 0.2 * last.values[5:-5, 0].std()


def test_the_direction_of_rotation_is_nothing() -> None:
    time, values = machine(1, 900, 1200)
    forward = grid_run(windowing(), time, values)
    values[:, 1] *= -1
    assert (grid_run(windowing(), time, values).values[:, 0] == forward.values[:, 0]).all()


def test_a_speed_measured_now_and_then_stands_in() -> None:
    time, values = machine(4, 1000, 1000)
    values[np.arange(len(time)) % RATE != 0, 1] = np.nan
    grid = grid_run(windowing(hold_s=1.0), time, values)
    assert set(grid.run.tolist()) == {0}
    assert len(grid) == pytest.approx(4 * 1000 / 60 * 256, abs=2)
    assert grid.valid.all()


def test_an_unknown_speed_gives_nothing_and_a_line() -> None:
    time, values = machine(1, 1000, 1000)
    values[:, 1] = np.nan
    gridder = Gridder(windowing())
    grid = gridder.push(time, values)
    assert len(grid) == len(gridder.flush()) == 0
    assert ("speed", "the shaft's speed is not known: no angle, no steps") in gridder.facts


def test_a_speed_lost_for_a_while_begins_a_new_grid() -> None:
    time, values = machine(2, 1000, 1000)
    values[RATE // 2 : RATE, 1] = np.nan
    gridder = Gridder(windowing())
    grid = Grid.joined([gridder.push(time, values), gridder.flush()], 2)
    assert set(grid.run.tolist()) == {0, 1}
    assert "speed" in [kind for kind, _ in gridder.facts]


def test_a_shaft_at_rest_gives_no_steps() -> None:
    time, values = machine(1, 1000, 1000)
    values[:, 1] = 0
    grid = grid_run(windowing(), time, values)
    assert len(grid) <= 1


def test_an_hour_between_bursts_is_not_filled_with_turns() -> None:
    time, values = machine(0.5, 1000, 1000)
    later = np.concatenate([time, time + 3600]), np.concatenate([values, values])
    grid = grid_run(windowing(period_s=1.0), *later)
    assert set(grid.run.tolist()) == {0, 1}
    assert len(grid) < 2 * 0.5 * 1000 / 60 * 256 + 4


def test_silence_gives_nothing() -> None:
    gridder = Gridder(windowing())
    time, values = machine(0.1, 1000, 1000)
    gridder.push(time, values)
    assert len(gridder.advance(time[-1] + 100)) == 0


@pytest.mark.parametrize("aggregate", ["last", "mean"])
def test_a_vibration_stream_in_pieces_with_restarts(aggregate: str, stream: Any, as_offline: Any) -> None:
    rng = np.random.default_rng(3)
    how = windowing(aggregate=aggregate, hold_s=0.05, length=512, hop=100)
    time, values = machine(2, 300, 3000)
    values[rng.random(len(time)) < 0.9, 1] = np.nan
    values[5000:5500, 0] = np.nan
    streamed = stream(
        how, time, values, sizes=lambda: int(rng.choice([1, 10, 1200])), restart=lambda: bool(rng.random() < 0.02)
    )
    assert as_offline(how, (time, values), streamed) > 50

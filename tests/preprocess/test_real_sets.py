"""Real recordings, streamed row by row with restarts in between, against the whole recording at once: bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_sft.preprocess import Channel, OrderTracking, Windowing
from edge_sft.preprocess.cutting import cut, ends_of
from edge_sft.preprocess.gridding import Grid, Gridder, grid_run

SENSORS = tuple(f"s{i}" for i in range(1, 22))


def engines(folder: Path, name: str) -> dict[int, Any]:
    """Return cycle, settings and sensors [n, 25] of each engine of a C-MAPSS file."""
    table = np.loadtxt(folder / "cmapss" / f"test_{name}.csv.gz", delimiter=",", skiprows=1)
    return {int(unit): table[table[:, 0] == unit, 1:] for unit in np.unique(table[:, 0])}


def turbofan(**settings: Any) -> Windowing:
    channels = tuple(Channel(name=name) for name in ("op1", "op2", "op3", *SENSORS))
    return Windowing(**{"channels": channels, "period_s": 1.0, "length": 40, "age": True, "min_valid": 0.0, **settings})


def restarts(seed: int, share: float) -> Any:
    rng = np.random.default_rng(seed)
    return lambda: bool(rng.random() < share)


@pytest.mark.parametrize("name", ["FD001", "FD004"])
def test_a_whole_turbofan_engine_row_by_row(name: str, shared_data: Path, stream: Any, as_offline: Any) -> None:
    engine = max(engines(shared_data, name).values(), key=len)
    rows = engine[:, 0], engine[:, 1:]
    streamed = stream(turbofan(), *rows, restart=restarts(0, 0.1))
    assert as_offline(turbofan(), rows, streamed) == len(engine)  # a decision at every cycle
    assert (streamed.grid.values[:, :24] == engine[:, 1:].astype(np.float32)).all()  # no row moved or lost
    assert (streamed.grid.time == engine[:, 0]).all()
    assert (streamed.grid.values[:, 24] == engine[:, 0] - 1).all()
    assert streamed.windows[-1].end == engine[-1, 0]


def test_every_engine_of_a_fleet_ends_with_its_last_row(shared_data: Path) -> None:
    for engine in engines(shared_data, "FD003").values():
        grid = grid_run(turbofan(), engine[:, 0], engine[:, 1:])
        values, _ = cut(turbofan(), grid, ends_of(turbofan(), grid)[-1:])
        tail = engine[-40:, 1:].astype(np.float32)
        assert (values[0, -len(tail) :, :24] == tail).all()


def test_a_whole_fleet_through_one_gridder_begins_anew_with_each_engine(shared_data: Path) -> None:
    table = np.concatenate(list(engines(shared_data, "FD001").values()))
    gridder = Gridder(turbofan())
    grid = Grid.joined([gridder.push(table[:, 0], table[:, 1:]), gridder.flush()], 25)
    back = np.flatnonzero(np.diff(table[:, 0]) < 0)
    assert len(back) == 99
    assert grid.run[-1] == 99
    assert len(grid) == len(table) - 2 * len(back)  # two rows are the witnesses


@pytest.mark.parametrize(
    ("file", "aggregate"),
    [
        ("valve1/0.csv", "last"),
        ("valve2/1.csv", "mean"),
        ("other/9.csv", "mean"),
        ("anomaly-free/anomaly-free.csv", "last"),
    ],
)
def test_a_whole_valve_recording_row_by_row(
    file: str, aggregate: str, shared_data: Path, stream: Any, as_offline: Any
) -> None:
    path = shared_data / "skab" / file
    stamps = np.loadtxt(path, delimiter=";", skiprows=1, usecols=0, dtype="datetime64[s]")
    time, values = stamps.astype(np.float64), np.loadtxt(path, delimiter=";", skiprows=1, usecols=range(1, 9))
    how = Windowing(
        channels=tuple(Channel(name=f"c{i}", stuck_s=30 if i == 5 else None) for i in range(8)),
        period_s=1.0,
        length=30,
        hop=1,
        aggregate="mean" if aggregate == "mean" else "last",
        hold_s=3,
        gap_s=60,
    )
    streamed = stream(how, time, values, restart=restarts(1, 0.02))
    assert as_offline(how, (time, values), streamed) > 0.9 * len(time)
    assert streamed.grid.valid[:, [0, 1, 2, 3]].mean() > 0.95


def test_a_vibration_recording_in_blocks(shared_data: Path, stream: Any, as_offline: Any) -> None:
    with np.load(shared_data / "cwru" / "cwru_12k_loads0-3_DE_faults.npz") as archive:
        key = min(archive.files)
        signal = archive[key].astype(np.float64)
    rng = np.random.default_rng(0)
    how = Windowing(channels=(Channel(name="drive_end", unit="g"),), period_s=1 / 12000, length=4096, hop=2048)
    time = 1.7e9 + np.arange(len(signal)) / 12000  # a clock since 1970 resolves 0.24 µs
    rows = time, signal[:, None]
    streamed = stream(how, *rows, sizes=lambda: int(rng.choice([1, 600, 1200, 5000])), restart=restarts(2, 0.1))
    assert as_offline(how, rows, streamed) == len(signal) // 2048
    assert (streamed.grid.values[:, 0] == signal.astype(np.float32)).all()


def test_a_vibration_recording_against_the_shaft(shared_data: Path, stream: Any, as_offline: Any) -> None:
    with np.load(shared_data / "cwru" / "cwru_12k_loads0-3_DE_faults.npz") as archive:
        key = min(archive.files)
        signal = archive[key].astype(np.float64)
    speed = float(key.split("_")[0])
    values = np.stack([signal, np.full(len(signal), np.nan)], axis=1)
    values[::1200, 1] = speed  # ten readings of the speed a second
    how = Windowing(
        channels=(Channel(name="drive_end", unit="g"), Channel(name="speed", unit="rpm")),
        period_s=1 / 12000,
        length=4096,
        hop=2048,
        hold_s=0.1,
        order=OrderTracking(speed_channel="speed", samples_per_revolution=400),
    )
    rng = np.random.default_rng(1)
    rows = np.arange(len(signal)) / 12000, values
    streamed = stream(how, *rows, sizes=lambda: int(rng.choice([1, 600, 1200])), restart=restarts(3, 0.1))
    turns = len(signal) / 12000 * speed / 60
    assert as_offline(how, rows, streamed) == int(turns * 400) // 2048
    assert streamed.grid.valid.all()


@pytest.mark.parametrize("fault", ["d00_te", "d06_te"])
def test_a_process_recording_row_by_row(fault: str, shared_data: Path, stream: Any, as_offline: Any) -> None:
    with np.load(shared_data / "tep" / "tep.npz") as archive:
        values = archive[fault].astype(np.float64)
    how = Windowing(
        channels=tuple(Channel(name=f"x{i}") for i in range(52)), period_s=180.0, length=20, hop=1, min_valid=0.9
    )
    time = 1.7e9 + 180.0 * np.arange(len(values))
    streamed = stream(how, time, values, restart=restarts(4, 0.05))
    assert as_offline(how, (time, values), streamed) == len(values) - 17
    assert (streamed.grid.values == values.astype(np.float32)).all()

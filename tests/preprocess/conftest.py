from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_sft.preprocess import Channel, OrderTracking, Windowing
from edge_sft.preprocess.buffering import WindowBuffer
from edge_sft.preprocess.cutting import cut, ends_of, grid_run
from edge_sft.preprocess.gridding import Grid, Gridder
from edge_sft.preprocess.window import Window

Rows = tuple[NDArray[np.float64], NDArray[np.float64]]
Cutter = Callable[[int], Iterator[int]]


@dataclass(frozen=True)
class Streamed:
    grid: Grid
    windows: list[Window]


def kept(state: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Send a state through a file, as a restart does."""
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        return dict(archive)


def _stream(
    windowing: Windowing,
    time: NDArray[np.float64],
    values: NDArray[np.float64],
    *,
    sizes: Callable[[], int] = lambda: 1,
    restart: Callable[[], bool] = lambda: False,
    now: Callable[[int], float | None] = lambda row: None,
) -> Streamed:
    """Push a recording piece by piece; ``now(row)`` is the clock before that row arrives."""
    gridder, buffer = Gridder(windowing), WindowBuffer(windowing, "pump")
    grids: list[Grid] = []
    windows: list[Window] = []

    def take(grid: Grid) -> None:
        grids.append(grid)
        windows.extend(buffer.push(grid))

    at = 0
    while at < len(time):
        stop = at + max(1, sizes())
        moment = now(at)
        if moment is not None:
            take(gridder.advance(moment))
        take(gridder.push(time[at:stop], values[at:stop]))
        at = stop
        if restart():
            gridder = Gridder.restore(windowing, kept(gridder.state()))
            buffer = WindowBuffer.restore(windowing, "pump", kept(buffer.state()))
    take(gridder.flush())
    return Streamed(Grid.joined(grids, len(windowing.names)), windows)


def _equal(one: Grid, other: Grid) -> None:
    for field in fields(Grid):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert a.dtype == b.dtype, field.name
        assert a.shape == b.shape, field.name
        assert a.tobytes() == b.tobytes(), field.name


def _as_offline(windowing: Windowing, rows: Rows, streamed: Streamed) -> int:
    """Compare a stream with the whole recording at once, bit for bit; returns the number of windows."""
    grid = grid_run(windowing, *rows)
    _equal(streamed.grid, grid)
    ends = ends_of(windowing, grid)
    assert [window.end for window in streamed.windows] == grid.time[ends].tolist()
    for start in range(0, len(ends), 256):  # not all windows of a long recording at once
        values, valid = cut(windowing, grid, ends[start : start + 256])
        part = streamed.windows[start : start + 256]
        assert np.stack([window.values for window in part]).tobytes() == values.tobytes()
        assert np.stack([window.valid for window in part]).tobytes() == valid.tobytes()
        assert np.isfinite(values).all()
        assert not values[valid == 0].any()
    return len(ends)


def _draw(seed: int) -> tuple[Windowing, Rows]:
    """Draw a windowing and a hostile recording: jitter, silences, a clock that jumps, bursts of NaN, stuck sensors."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 5))
    stuck = [None, 5.0, 0.5, None]
    channels = tuple(
        Channel(name=f"c{i}", low=-1.5 if i == 1 else None, high=1e6 if i == 0 else None, stuck_s=stuck[i])
        for i in range(count)
    )
    windowing = Windowing(
        channels=channels,
        period_s=float(rng.choice([1.0, 0.1, 0.7, 1 / 3])),
        length=int(rng.integers(1, 12)),
        hop=int(rng.integers(1, 5)),
        aggregate="mean" if rng.random() < 0.5 else "last",
        hold_s=float(rng.choice([0.0, 1.0, 3.0])),
        gap_s=None if rng.random() < 0.5 else 6.0,
        age=bool(rng.random() < 0.5),
        age_unit=float(rng.choice([1.0, 3600.0])),
        min_valid=float(rng.choice([0.0, 0.3, 0.5, 1.0])),
        order=OrderTracking(speed_channel="c0", samples_per_revolution=8) if rng.random() < 0.35 else None,
    )
    rows = int(rng.integers(1, 250))
    steps = rng.choice([0.0, 0.1, 0.3, 0.95, 1.0, 1.03, 20.0, 4e4, -0.2, -3.0, -86400.0, np.nan, np.inf], rows,
                       p=[0.05, 0.2, 0.1, 0.1, 0.3, 0.15, 0.02, 0.01, 0.03, 0.01, 0.01, 0.01, 0.01])  # fmt: skip
    time = 1.7e9 + np.cumsum(np.where(np.isfinite(steps), steps, 0.0))
    time[~np.isfinite(steps)] = steps[~np.isfinite(steps)]
    if rng.random() < 0.3:
        time = 1.7e9 + np.arange(rows) * windowing.period_s
    values = rng.normal(size=(rows, count)).round(1)
    values[:, 0] = 30 + 5 * values[:, 0]
    values[rng.random(values.shape) < 0.15] = np.nan
    values[rows // 2 : rows // 2 + 10] = np.nan
    values[rng.random(values.shape) < 0.01] = rng.choice([np.inf, -np.inf, 1e300, -1e39])
    values[rows // 4 : rows // 3, count - 1] = 1.0
    return windowing, (time, values)


@pytest.fixture
def stream() -> Callable[..., Streamed]:
    return _stream


@pytest.fixture
def equal() -> Callable[[Grid, Grid], None]:
    return _equal


@pytest.fixture
def as_offline() -> Callable[[Windowing, Rows, Streamed], int]:
    return _as_offline


@pytest.fixture
def draw() -> Callable[[int], tuple[Windowing, Rows]]:
    return _draw


@pytest.fixture
def shared_data() -> Path:
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the shared data sets are not here ({folder}): real recordings are not proved")
    return folder

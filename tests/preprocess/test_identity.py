"""Any cutting of a stream, any restart: the same bits as the whole recording at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

SEEDS = range(80)


@pytest.mark.parametrize("seed", SEEDS)
def test_row_by_row(seed: int, draw: Any, stream: Any, as_offline: Any) -> None:
    windowing, rows = draw(seed)
    as_offline(windowing, rows, stream(windowing, *rows))


@pytest.mark.parametrize("seed", SEEDS)
def test_any_pieces_with_restarts_anywhere(seed: int, draw: Any, stream: Any, as_offline: Any) -> None:
    windowing, rows = draw(seed)
    rng = np.random.default_rng(seed + 1000)
    streamed = stream(
        windowing,
        *rows,
        sizes=lambda: int(rng.choice([1, 1, 2, 3, 16, 17, 40, 100])),
        restart=lambda: bool(rng.random() < 0.4),
    )
    as_offline(windowing, rows, streamed)


@pytest.mark.parametrize("seed", range(20))
def test_a_restart_after_every_single_row(seed: int, draw: Any, stream: Any, as_offline: Any) -> None:
    windowing, (time, values) = draw(seed)
    rows = time[:60], values[:60]
    as_offline(windowing, rows, stream(windowing, *rows, restart=lambda: True))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_clock_that_completes_cells_early_changes_nothing(seed: int, draw: Any, stream: Any, as_offline: Any) -> None:
    windowing, (time, values) = draw(seed)
    rng = np.random.default_rng(seed + 2000)
    steps = np.minimum(np.abs(np.diff(np.nan_to_num(time, posinf=0.0), prepend=1.7e9)), 4.0)
    rows = 1.7e9 + np.cumsum(steps), values  # rising, and one run: what `advance` brings is only brought earlier
    streamed = stream(
        windowing.model_copy(update={"gap_s": None, "length": 64}),
        *rows,
        sizes=lambda: int(rng.choice([1, 2, 20])),
        now=lambda row: float(rows[0][row] - rng.random() * 2.0) if rng.random() < 0.7 else None,
        restart=lambda: bool(rng.random() < 0.2),
    )
    as_offline(windowing.model_copy(update={"gap_s": None, "length": 64}), rows, streamed)


def test_a_long_run_of_whole_cells_equals_its_rows(draw: Any, stream: Any, as_offline: Any) -> None:
    windowing, _ = draw(0)
    windowing = windowing.model_copy(update={"order": None, "aggregate": "mean", "period_s": 10.0})
    rng = np.random.default_rng(7)
    time = 1.7e9 + np.cumsum(rng.random(2000))
    values = rng.normal(size=(2000, len(windowing.channels))) * 10.0 ** rng.integers(-12, 12, (2000, 1))
    assert as_offline(windowing, (time, values), stream(windowing, time, values)) > 0

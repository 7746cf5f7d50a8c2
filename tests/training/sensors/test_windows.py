"""A run of months is judged and learnt from without all its windows in memory at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_sft.alarms import Case, step
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.models.sensors.normalise import Normaliser
from edge_sft.policy import AlarmRule
from edge_sft.prediction import Prediction
from edge_sft.preprocess import cutting
from edge_sft.progress import Silent
from edge_sft.sensor_recipe import SensorRecipe
from edge_sft.training.sensors import anomaly, commissioned, faults, windows
from edge_sft.training.sensors.windows import Laid, affordable, cut_run, pieces


def recipe(kind: str = "anomaly", **more: Any) -> SensorRecipe:
    task = {"kind": kind, **({"labels": ["ok", "worn"], "ok": ["ok"]} if kind == "classification" else {})}
    given: dict[str, Any] = {
        "modality": "window",
        "name": "x",
        "task": task,
        "data": {"path": ".", "channels": [{"name": "a"}, {"name": "b"}]},
        "window": {"period_s": 1.0, "length": 8, "gap_s": 20.0},
        "model": {"architecture": "bank", "bank_size": 32} if kind == "anomaly" else {},
    }
    return SensorRecipe.model_validate({**given, **more})


def run(rows: int = 1500, name: str = "r", split: str = "train") -> Run:
    rng = np.random.default_rng(len(name))
    time = np.arange(rows, dtype=np.float64)
    time[rows // 2 :] += 100.0  # a silence: windows do not reach across it
    values = rng.standard_normal((rows, 2))
    labels = np.zeros(rows, dtype=np.int64)
    return Run(name, name, name, split, time, values, labels, time[::-1].copy(), name)  # type: ignore[arg-type]


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many windows were cut at once, each time."""
    found: list[int] = []
    cut = cutting.cut

    def spy(windowing: Any, grid: Any, ends: NDArray[np.int64]) -> Any:
        found.append(len(ends))
        return cut(windowing, grid, ends)

    monkeypatch.setattr(cutting, "cut", spy)
    return found


def test_pieces_are_the_whole_and_look_at_the_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    newest = Run.newest
    monkeypatch.setattr(Run, "newest", lambda self, ends: asked.append(len(ends)) or newest(self, ends))
    windowing = recipe().windowing()
    parts = list(pieces(windowing, run(), 3, 4, 100))
    assert asked == [sum(map(len, parts))]
    assert max(map(len, parts)) == 100
    whole = cut_run(windowing, run(), 3, 4)
    for field in ("values", "valid", "run", "row", "end", "label", "rul", "group"):
        assert np.array_equal(np.concatenate([getattr(part, field) for part in parts]), getattr(whole, field)), field


def test_a_window_does_not_reach_across_a_silence() -> None:
    whole = cut_run(recipe().windowing(), run(40))
    after = whole.end >= 120.0
    first = whole.take(np.flatnonzero(after)[:1])
    assert first.valid[0].sum() < first.valid[0].size
    assert not first.values[0][first.valid[0] == 0].any()


def test_a_training_holds_few_windows_of_a_long_run(cuts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commissioned, "MOST_WINDOWS", 200)
    monkeypatch.setattr(anomaly, "_DEFAULT_WINDOWS", 100)
    runs = tuple(run(name=name, split=split) for name, split in (("a", "train"), ("bb", "val"), ("ccc", "test")))
    trained = anomaly.train(recipe(), SensorDataset(Path(), ("a", "b"), (), runs), Silent())
    assert trained.metrics["test"]["windows"] > 1000
    assert max(cuts) <= commissioned._BATCH


def test_of_many_training_runs_the_default_memory_takes_fewer_windows_each(
    cuts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_MOST_BYTES", 8 * 8 * 2 * 300)
    asked = recipe()
    task, module, policy, _ = anomaly.assemble(asked, "bank")
    dataset = SensorDataset(Path(), ("a", "b"), (), tuple(run(200, f"r{i}") for i in range(10)))
    made = anomaly._defaults(asked, task, module, policy, dataset)
    assert np.isfinite(made["bank"]).all()
    assert cuts == [30] * 10


def test_long_and_wide_windows_count_more() -> None:
    small, large = recipe(), recipe(window={"period_s": 1.0, "length": 65_536})
    assert affordable(small.windowing(), 20_000) == 20_000
    assert affordable(large.windowing(), 20_000) == 512


def test_what_is_watched_makes_the_same_cases_as_step_by_step() -> None:
    rng = np.random.default_rng(1)
    score = np.abs(np.sin(np.arange(3000) / 40) + 0.3 * rng.standard_normal(3000))
    score[700:720] = np.nan
    time = np.arange(3000, dtype=np.float64)
    rule = AlarmRule(on_after_s=3, off_after_s=5, clear_ratio=0.8)
    alarmed, opened = commissioned.follow(score, time, 0.9, rule, time > 100)
    case, count, expected = Case(), 0, np.zeros(3000, dtype=bool)
    told = {"stream": "", "captured_at": "1970-01-01T00:00:00.000Z", "decided_at": "1970-01-01T00:00:00.000Z"}
    for row in range(101, 3000):
        ratio = score[row] / 0.9
        verdict = "no_decision" if np.isnan(ratio) else "nok" if ratio >= 1 else "ok"
        one = Prediction(**told, latency_ms=0, verdict=verdict, score=None if np.isnan(ratio) else ratio)  # type: ignore[arg-type]
        case, events = step(case, one, rule, time[row])
        count += sum(event.kind == "case_opened" for event in events)
        expected[row] = case.open
    assert count == opened > 5
    assert np.array_equal(alarmed, expected)


def test_a_fault_normaliser_takes_its_rows_of_few_windows(cuts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_ROWS", 300)
    fitted: list[NDArray[np.float32]] = []
    fit = Normaliser.fit
    monkeypatch.setattr(Normaliser, "fit", lambda values, *more: fitted.append(values) or fit(values, *more))
    asked = recipe("classification")
    faults._normaliser(asked, (run(),))
    assert max(cuts) <= 310
    rows = cut_run(asked.windowing(), run()).values.reshape(-1, 2)
    assert np.array_equal(fitted[0], rows[:: len(rows) // 300])


def test_a_run_without_windows_can_be_laid() -> None:
    laid = Laid(recipe().windowing(), run(0))
    assert len(laid) == 0
    assert laid.take(slice(None)).values.shape == (0, 8, 2)

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from edge_sft.cli import predict
from edge_sft.cli.predict_rows import text_line
from edge_sft.errors import DataError, UserError
from edge_sft.prediction import Prediction


def said(name: str, **fields: object) -> str:
    told = {"captured_at": "2026-01-31T12:00:00Z", "decided_at": "2026-01-31T12:00:01Z", "latency_ms": 1.0}
    prediction = Prediction.model_validate({"stream": "predict", "asset": "pump 1", "name": name, **told, **fields})
    return text_line(prediction, "cycles").decode()


def test_times_are_a_clock_where_they_are_one() -> None:
    assert "pump 1 at 2024-01-01 00:01:00  " in said("1704067260", verdict="ok", score=0.3, channels={"temp": 1.0})
    assert "pump 1 at 2024-01-01 00:00:00.250  why" in said("1704067200.25", verdict="no_decision", reason="why")
    assert "pump 1 at 192  12 (10 to 14) cycles" in said("192", verdict="ok", value=12.0, low=10.0, high=14.0)


@pytest.mark.parametrize(("windows", "error"), [(True, DataError), (False, UserError)])
def test_nothing_decided_replaces_no_earlier_table(windows: bool, error: type[Exception], tmp_path: Path) -> None:
    out = tmp_path / "decisions.csv"
    out.write_text("of yesterday")
    with pytest.raises(error), predict._target(out) as target:
        target.write(b"name,verdict\n")
        predict._refuse_nothing(Counter(), windows=windows)
    assert out.read_text() == "of yesterday"
    assert [path.name for path in tmp_path.iterdir()] == ["decisions.csv"]

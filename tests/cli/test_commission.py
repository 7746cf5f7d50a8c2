from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_sft.cli.commission import _called, _read, _windows, _within, commission
from edge_sft.errors import DataError, UserError
from edge_sft.policy import AnomalyPolicy, CommissioningRule
from edge_sft.prediction import Rows
from edge_sft.progress import Silent
from edge_sft.runtime.rowlog import RowLog
from edge_sft.slots.commissioning_file import CommissioningStore
from edge_sft.slots.store import Slot

CHANNELS = ("c0", "c1", "c2")


@pytest.fixture(scope="session")
def small() -> ModuleType:
    key = "edge_sft_tests_window_bundle"
    if key not in sys.modules:
        path = Path(__file__).parent.parent / "contracts" / "window_bundle.py"
        spec = spec_from_file_location(key, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[key] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


@pytest.fixture
def factory(small: ModuleType, tmp_path: Path) -> Any:
    return small.Factory(tmp_path / "made")


@pytest.fixture
def slot(small: ModuleType, factory: Any, tmp_path: Path) -> Slot:
    how = small.windowing()
    policy = AnomalyPolicy(commissioning=CommissioningRule(factor=1.2))
    made: Slot = factory.install(
        tmp_path / "root", how=how, task=small.anomaly_task(how), graph=small.anomaly(8, 3), policy=policy
    )
    return made


def hear(root: Path, asset: str, count: int, *, start_s: float = 1000.0, channels: tuple[str, ...] = CHANNELS) -> None:
    """Keep rows as an agent that received them keeps them."""
    rng = np.random.default_rng(count)
    values = rng.standard_normal((count, len(channels))) + 10 * np.arange(len(channels))
    ring = RowLog(root / "pipelines" / "main" / "rows", ring_bytes=1 << 20, tell=lambda *_: None)
    times = start_s + 0.1 * np.arange(count)
    for first in range(0, count, 100):
        part = slice(first, first + 100)
        ring.append([Rows(asset, times[part], values[part], channels)], received_s=0.0)
    ring.close()


def test_from_what_the_agent_received(slot: Slot, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    hear(root, "pump", 600)
    hear(root, "fan", 500)
    commission(heard=True, root=root)
    told = capsys.readouterr().out
    assert "pump: commissioned" in told
    assert "fan: commissioned" in told
    store = CommissioningStore(root, "main", slot.digest)
    found = store.of("pump")
    assert found is not None
    assert found.threshold > 0
    np.testing.assert_allclose(found.inputs["mean"], [0, 10, 20], atol=0.2)
    np.testing.assert_allclose(found.inputs["std"], 1, atol=0.2)
    commission(show=True, root=root)
    assert "threshold" in capsys.readouterr().out


def test_only_one_machine_and_a_stretch_of_time(slot: Slot, tmp_path: Path) -> None:
    root = tmp_path / "root"
    hear(root, "pump", 900)
    hear(root, "fan", 500)
    commission(heard=True, asset="pump", start="1010", end="1970-01-01T00:17:30Z", root=root)
    store = CommissioningStore(root, "main", slot.digest)
    assert [one.asset for one in store.all()] == ["pump"]
    found = store.all()[0]
    assert found.first >= 1010
    assert found.last <= 1050.1


def test_one_machine_too_short_does_not_keep_the_others_from_it(
    slot: Slot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    hear(root, "pump", 600)
    hear(root, "fan", 20)
    with pytest.raises(DataError, match="1 of 2 machines"):
        commission(heard=True, root=root)
    assert "longer healthy run" in capsys.readouterr().err
    assert [one.asset for one in CommissioningStore(root, "main", slot.digest).all()] == ["pump"]


def test_what_is_wrong_with_the_healthy_run_is_said(
    slot: Slot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It becomes the measure of health: bursts of nothing and a clock set back must not pass in silence."""
    root = tmp_path / "root"
    rng = np.random.default_rng(0)
    values = rng.standard_normal((900, 3))
    values[100:300, 1] = np.nan
    times = 1_000_000.0 + 0.1 * np.arange(900)
    times[600:] -= 86_400
    ring = RowLog(root / "pipelines" / "main" / "rows", ring_bytes=1 << 20, tell=lambda *_: None)
    for first in range(0, 900, 100):
        part = slice(first, first + 100)
        ring.append([Rows("pump", times[part], values[part], CHANNELS)], received_s=0.0)
    ring.close()
    commission(heard=True, root=root)
    said = capsys.readouterr().err
    assert "pump: the healthy run: c1 holds no number in 22 % of the rows" in said
    assert "pump: the healthy run: the clock went back by 86" in said
    assert "c0 holds" not in said


def test_a_missing_channel_is_not_watched_and_said(
    slot: Slot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    hear(root, "pump", 600, channels=("c0", "c2", "stranger"))
    commission(heard=True, root=root)
    assert "c1 was missing" in capsys.readouterr().err
    assert CommissioningStore(root, "main", slot.digest).of("pump") is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "not given, or twice"),
        ({"rows": [Path("a.csv")], "heard": True}, "not given, or twice"),
        ({"heard": True}, "kept no rows"),
        ({"heard": True, "start": "yesterday"}, "is no time"),
        ({"show": True}, "no machine commissioned"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(slot: Slot, tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        commission(**given, root=tmp_path / "root")


def test_a_machine_that_was_not_heard(slot: Slot, tmp_path: Path) -> None:
    hear(tmp_path / "root", "pump", 600)
    with pytest.raises(DataError, match="no rows of 'press'; it has 'pump'"):
        commission(heard=True, asset="press", root=tmp_path / "root")
    with pytest.raises(DataError, match="no rows of that time; there are rows from 1000 to 1059"):
        commission(heard=True, start="2000", root=tmp_path / "root")


def test_nothing_deployed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no model yet"):
        commission(heard=True, root=tmp_path)


def test_a_model_that_needs_none(factory: Any, tmp_path: Path) -> None:
    factory.install(tmp_path / "root")
    hear(tmp_path / "root", "pump", 600)
    with pytest.raises(UserError, match="needs no commissioning"):
        commission(heard=True, root=tmp_path / "root")


RECIPE = """
modality = "window"
name = "pumps"
[task]
kind = "anomaly"
[data]
path = "."
time = "t"
group = "machine"
channels = [{ name = "c0" }, { name = "c1" }, { name = "c2" }]
"""


@pytest.fixture
def two_machines(slot: Slot, tmp_path: Path) -> Path:
    (slot.path / "recipe.toml").write_text(RECIPE)
    path = tmp_path / "both.csv"
    rows = "".join(f"{k},{m},{k},{k % 7},{k % 5}\n" for m in ("Pump 1", "Pump 2") for k in range(50))
    path.write_text("t,machine,c0,c1,c2\n" + rows)
    return path


def test_the_rows_own_machine_goes_before_the_name_asked_for(slot: Slot, two_machines: Path) -> None:
    found = list(_within(_read(slot, [two_machines], "Pump 1", Silent()), "Pump 1", (None, None), "both.csv"))
    assert [(rows.asset, len(rows.time_s)) for rows in found] == [("Pump 1", 50)]
    with pytest.raises(DataError, match="no rows of 'pump1'; it has 'Pump 1', 'Pump 2'"):
        list(_within(_read(slot, [two_machines], "pump1", Silent()), "pump1", (None, None), "both.csv"))


def test_a_machine_that_the_agent_calls_otherwise(slot: Slot, two_machines: Path) -> None:
    only = _within(_read(slot, [two_machines], "Pump 1", Silent()), "Pump 1", (None, None), "both.csv")
    assert [rows.asset for rows in _called(only, "line/1")] == ["line/1"]
    with pytest.raises(UserError, match="would make one machine of 'Pump 1' and 'Pump 2'"):
        list(_called(_read(slot, [two_machines], None, Silent()), "line/1"))


def test_a_recording_lies_in_memory_once_and_is_gridded_in_parts(
    slot: Slot, small: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_sft.preprocess.gridding import Gridder

    pushed: list[int] = []
    push = Gridder.push
    monkeypatch.setattr(Gridder, "push", lambda self, t, v: pushed.append(len(t)) or push(self, t, v))
    monkeypatch.setattr("edge_sft.cli.commission._ROWS", 100)
    (slot.path / "recipe.toml").write_text(RECIPE)
    rng = np.random.default_rng(0)
    path = tmp_path / "one.csv"
    cells = rng.standard_normal((450, 3)).round(3).tolist()
    path.write_text("t,machine,c0,c1,c2\n" + "".join(f"{k / 10},P,{a},{b},{c}\n" for k, (a, b, c) in enumerate(cells)))
    rows = next(_read(slot, [path], None, Silent()))
    assert next(_within(iter([rows]), None, (None, None), "one.csv")) is rows
    collected = _windows(small.windowing(), [rows], Silent())
    assert pushed == [100, 100, 100, 100, 50]
    assert len(collected["P"].healthy()) > 0


@pytest.mark.parametrize(("content", "said"), [("", "is an empty file"), ("t,machine,c0,c1,c2\n", "has no rows")])
def test_files_without_rows_are_one_clear_line(slot: Slot, tmp_path: Path, content: str, said: str) -> None:
    (slot.path / "recipe.toml").write_text(RECIPE)
    path = tmp_path / "one.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=f"hold no usable rows: one.csv {said}"):
        list(_read(slot, [path], None, Silent()))

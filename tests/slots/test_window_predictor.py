"""Windows decided in batches from a slot: any batch, any machine's own inputs, and what is refused or not decided."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_sft.bundle.reading import open_verified
from edge_sft.errors import DeviceError, UserError
from edge_sft.policy import AnomalyPolicy, RegressionPolicy
from edge_sft.prediction import Rows, Sample
from edge_sft.preprocess.window import Window
from edge_sft.slots.window_predictor import Captured, WindowPredictor, name_of

LENGTH, CHANNELS = 8, 3


@pytest.fixture(scope="session")
def small_windows() -> ModuleType:
    key = "edge_sft_tests_window_bundle"
    if key not in sys.modules:
        spec = spec_from_file_location(key, Path(__file__).parent.parent / "contracts" / "window_bundle.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[key] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


@pytest.fixture
def factory(tmp_path: Path, small_windows: ModuleType) -> Any:
    return small_windows.Factory(tmp_path / "factory")


@pytest.fixture
def anomaly(factory: Any, small_windows: ModuleType) -> Callable[..., WindowPredictor]:
    how = small_windows.windowing()

    def make(machines: Any = None, threshold: float | None = None) -> WindowPredictor:
        folder = factory.folder_of(
            how,
            task=small_windows.anomaly_task(how),
            graph=small_windows.anomaly(LENGTH, CHANNELS),
            policy=AnomalyPolicy(threshold=threshold),
        )
        return WindowPredictor.open(folder, threads=1, commissioning=machines)

    return make


@dataclass
class Machine:
    """What commissioning found out."""

    inputs: dict[str, Any]
    threshold: float


@dataclass
class Machines:
    """Implements `Commissioned`."""

    known: dict[str, Machine] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    def of(self, asset: str) -> Machine | None:
        return self.known.get(asset)

    def why_not(self, asset: str) -> str:
        return self.damaged.get(asset, "")

    def refresh(self) -> tuple[str, ...]:
        return ()


def machine(mean: float, threshold: float = 2.0) -> Machine:
    return Machine({"mean": np.full(CHANNELS, mean, np.float32), "std": np.ones(CHANNELS, np.float32)}, threshold)


def window(asset: str, level: float, end: float = 1.0) -> Window:
    shape = (LENGTH, CHANNELS)
    return Window(asset, end, np.full(shape, level, np.float32), np.ones(shape, np.float32))


def now() -> Captured:
    return Captured(datetime.now(timezone.utc), time.monotonic())


def decide(predictor: WindowPredictor, *windows: Window) -> list[Any]:
    return predictor.decide(windows, stream="main", captured=[now()] * len(windows))


def test_any_batch_gives_the_same_in_the_windows_order(factory: Any) -> None:
    folder = factory.folder_of(policy=RegressionPolicy(act_below=0.0, warn_below=1.0, judge="low"))
    windows = [window(f"p{n % 7}", float(level), n) for n, level in enumerate(np.linspace(-3, 5, 50))]
    said: list[list[Any]] = []
    for batch in (1, 7, 64):
        with WindowPredictor.open(folder, threads=1, batch=batch) as predictor:
            found = decide(predictor, *windows)
        assert [(one.asset, one.name) for one in found] == [(one.asset, name_of(one.end)) for one in windows]
        said.append([(one.verdict, one.value, one.low, one.high) for one in found])
    for other in said[1:]:
        assert [one[0] for one in other] == [one[0] for one in said[0]]
        np.testing.assert_allclose([one[1:] for one in other], [one[1:] for one in said[0]], rtol=1e-5, atol=1e-5)
    assert {one[0] for one in said[0]} == {"nok", "uncertain", "ok"}
    assert decide(predictor) == []


def test_every_machine_is_judged_by_its_own(anomaly: Callable[..., WindowPredictor]) -> None:
    known = {"cold": machine(0.0), "hot": machine(10.0), "touchy": machine(0.0, 0.5)}
    machines = Machines(known, damaged={"worn": "worn.commissioning: is damaged"})
    with anomaly(machines) as predictor:
        found = decide(
            predictor,
            window("cold", 10.0),
            window("hot", 10.0),
            window("stranger", 0.0),
            window("touchy", 1.0),
            window("cold", 1.0),
            window("worn", 1.0),
        )
    assert [one.verdict for one in found] == ["nok", "ok", "no_decision", "nok", "ok", "no_decision"]
    assert "not commissioned" in found[2].reason
    assert found[5].reason == "worn.commissioning: is damaged"
    assert found[0].score == pytest.approx(5.0)
    assert found[4].score == pytest.approx(0.5)
    assert found[0].policy_version == found[4].policy_version != found[3].policy_version
    assert found[0].channels == pytest.approx({"c0": 1 / 3, "c1": 1 / 3, "c2": 1 / 3}, abs=1e-3)


def test_a_threshold_alone_is_not_enough(anomaly: Callable[..., WindowPredictor]) -> None:
    with anomaly(None, threshold=1.0) as predictor:
        with pytest.raises(DeviceError, match="commission"):
            predictor.scores([window("x", 1.0)])
        (one,) = decide(predictor, window("x", 1.0))
    assert one.verdict == "no_decision"
    assert "commission" in one.reason


def test_what_is_not_finite_or_late_is_not_decided(factory: Any) -> None:
    folder = factory.folder_of()
    with WindowPredictor.open(folder, threads=1, deadline_ms=50) as predictor:
        spoilt = window("p", 1.0)
        spoilt.values[:] = np.nan
        old = Captured(datetime.now(timezone.utc), time.monotonic() - 1)
        first, second, third = predictor.decide(
            [spoilt, window("p", 1.0), window("p", 1.0)], stream="main", captured=[now(), old, now()]
        )
    assert (first.verdict, second.verdict, third.verdict) == ("no_decision", "no_decision", "ok")
    assert "not finite" in first.reason
    assert "deadline missed" in second.reason


def test_a_stretch_of_rows_is_decided_like_a_picture(factory: Any) -> None:
    with WindowPredictor.open(factory.folder_of(), threads=1) as predictor:
        rows = Rows("p", np.arange(20) * 0.1, np.full((20, 4), 7.0), ("extra", "c2", "c1", "c0"))
        sample = Sample(rows, datetime.now(timezone.utc), time.monotonic(), "main")
        assert predictor.predict(sample).value == pytest.approx(7.0, abs=0.1)
        short = Rows("p", np.zeros(1), np.full((1, 3), 7.0), ("c0", "c1", "c2"))
        assert "no window" in str(predictor.predict(Sample(short, sample.captured_at, 0.0, "main")).reason)
        wrong = Rows("p", np.zeros(1), np.full((1, 1), 7.0), ("c0",))
        assert "no channel c1, c2" in str(predictor.predict(Sample(wrong, sample.captured_at, 0.0, "main")).reason)
        none = Sample(None, sample.captured_at, 0.0, "main", fault="gone")
        assert "gone" in str(predictor.predict(none).reason)


def test_a_model_of_pictures_is_refused(tmp_path: Path, small: ModuleType) -> None:
    signer = small.Signer.make(tmp_path / "keys")
    open_verified(small.plan().write(tmp_path / "out", signer), [signer.public]).extract_to(tmp_path / "slot")
    with pytest.raises(UserError, match="model of pictures"):
        WindowPredictor.open(tmp_path / "slot")


def test_a_window_has_one_name() -> None:
    assert [name_of(end) for end in (5.0, 1767225600.1, 0.30000000000000004)] == [
        "5",
        "1767225600.1",
        "0.30000000000000004",
    ]

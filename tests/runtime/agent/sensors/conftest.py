"""What the tests of sensor pipelines share: real small window models, rows of many assets, and what must come out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_sft.prediction import Prediction, Rows
from edge_sft.preprocess import Windowing
from edge_sft.runtime.config import AssetsSection, PipelineSection
from edge_sft.runtime.continuing import Continuity
from edge_sft.runtime.sensor_pipeline import SensorPipeline
from edge_sft.runtime.swap import SlotLoader
from edge_sft.slots.window_predictor import Captured, WindowPredictor, windows_of


def _shared(name: str) -> ModuleType:
    key = f"edge_sft_tests_{name}"
    if key not in sys.modules:
        path = next(p for p in Path(__file__).parents if p.name == "tests") / "contracts" / f"{name}.py"
        spec = spec_from_file_location(key, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[key] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


@pytest.fixture(scope="session")
def small_windows() -> ModuleType:
    return _shared("window_bundle")


@pytest.fixture
def factory(tmp_path: Path, small_windows: ModuleType) -> Any:
    return small_windows.Factory(tmp_path / "factory")


def rows(asset: str, count: int, *, start: float = 1000.0, seed: int = 0, channels: int = 3, step: float = 0.1) -> Rows:
    """A random walk, jittered in time by less than half a step."""
    rng = np.random.default_rng([seed, *asset.encode()])
    time_s = start + np.arange(count) * step + rng.uniform(-0.3, 0.3, count) * step
    values = 5 + np.cumsum(rng.normal(0, 0.1, (count, channels)), axis=0)
    return Rows(asset, time_s, values, tuple(f"c{index}" for index in range(channels)))


@pytest.fixture(name="rows")
def _rows() -> Callable[..., Rows]:
    return rows


def cut(one: Rows, pieces: int) -> list[Rows]:
    """Cut rows into pieces, as messages carry them."""
    parts = np.array_split(np.arange(len(one.time_s)), pieces)
    return [Rows(one.asset, one.time_s[part], one.values[part], one.channels) for part in parts if len(part)]


@pytest.fixture(name="cut")
def _cut() -> Callable[..., list[Rows]]:
    return cut


@dataclass
class Stream:
    """A sensor pipeline over a real slot, and what came out of it."""

    pipeline: SensorPipeline
    out: list[Prediction] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    cases: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.told]

    def sentence(self, kind: str) -> str:
        return next((text for told, text in self.told if told == kind), "")

    def of(self, asset: str) -> dict[str, Prediction]:
        return {str(one.name): one for one in self.out if one.asset == asset}


@pytest.fixture
def make_stream(tmp_path: Path) -> Iterator[Callable[..., Stream]]:
    """make_stream(source, root=…, **assets) starts a pipeline; stopped at the end."""
    streams: list[Stream] = []

    def make(source: Any, root: Path | None = None, /, *, redelivers: bool = False, **assets: Any) -> Stream:
        root = root or tmp_path / "root"
        fields = {"source": {"kind": "replay", "path": "."}, "assets": assets}
        section = PipelineSection.model_validate(fields)
        stream = Stream.__new__(Stream)
        stream.out, stream.told, stream.cases = [], [], []

        def tell(kind: str, detail: str) -> None:
            stream.told.append((kind, detail))

        stream.pipeline = SensorPipeline(
            section,
            source=source,
            loader=SlotLoader(root, section, tell),
            sink=stream.out.append,
            flush=lambda timeout_s: True,
            tell=tell,
            announce=lambda kind, detail, facts: stream.cases.append((kind, dict(facts))),
            memory=Continuity(
                root / "pipelines" / "main" / "rows", section.assets or AssetsSection(), tell, redelivers=redelivers
            ),
        )
        streams.append(stream)
        stream.pipeline.start()
        return stream

    yield make
    for stream in streams:
        stream.pipeline.stop(10.0)


@pytest.fixture
def offline() -> Callable[..., dict[str, Prediction]]:
    """offline(slot folder, rows) returns what the model says of a whole recording at once, by window."""

    def run(folder: Path, one: Rows) -> dict[str, Prediction]:
        from datetime import datetime, timezone

        with WindowPredictor.open(folder, threads=1) as predictor:
            windows = windows_of(one, predictor.windowing)
            captured = [Captured(datetime.now(timezone.utc), time.monotonic())] * len(windows)
            return {str(p.name): p for p in predictor.decide(windows, stream="main", captured=captured)}

    return run


@pytest.fixture
def same() -> Callable[[dict[str, Prediction], dict[str, Prediction]], float]:
    """same(a, b) asserts equal windows and verdicts, and returns the largest difference of values."""

    def compare(got: dict[str, Prediction], want: dict[str, Prediction]) -> float:
        assert list(got) == list(want)
        apart = 0.0
        for name, one in got.items():
            assert one.verdict == want[name].verdict
            if one.value is not None:
                apart = max(apart, abs(one.value - float(want[name].value or 0.0)))
        return apart

    return compare


@pytest.fixture
def how(small_windows: ModuleType) -> Callable[..., Windowing]:
    made: Callable[..., Windowing] = small_windows.windowing
    return made

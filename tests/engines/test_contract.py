"""Every engine keeps the same contract: ONNX Runtime, a fake in memory, and NVIDIA's; those on the real libraries
where there is a GPU, and everywhere our own code around a pretended library."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
import pytest

from edge_sft.engines.nvidia.cuda import Driver
from edge_sft.engines.protocol import EngineInfo, open_engine
from edge_sft.errors import BugError, DeviceError
from edge_sft.profile import Building

EngineContract: Any = sys.modules["edge_sft_tests_engine"].EngineContract


class TestOnnxRuntime(EngineContract):
    @pytest.fixture
    def make_engine(self, tmp_path: Path, small: ModuleType) -> Callable[[], Any]:
        model = tmp_path / "fp32.onnx"
        model.write_bytes(small.graph())
        return lambda: open_engine(model, small.profile())

    @pytest.fixture
    def break_engine(self) -> Callable[[Any], None]:
        class Broken:
            def run(self, *_: Any) -> None:
                raise RuntimeError("CUDA failure 2: out of memory")

        def breaks(engine: Any) -> None:
            engine._session = Broken()

        return breaks


class InMemory:
    """An engine without a library, for tests of what is above engines."""

    def __init__(self) -> None:
        self.broken = False
        self._open = True

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("in-memory", "none", "0", 1)

    def infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        image = inputs.get("image")
        fits = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[1:] == (16, 16, 3)
        if not self._open or len(inputs) != 1 or not fits or not len(image):  # type: ignore[arg-type]
            raise BugError("in-memory", "was asked for something else", "")
        if self.broken:
            raise DeviceError("in-memory", "is broken on purpose", "")
        mean = image.reshape(len(image), -1, 3).mean(axis=1) + 1  # type: ignore[union-attr]
        return {"probabilities": (mean / mean.sum(axis=1, keepdims=True)).astype(np.float32)}

    def __enter__(self) -> InMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False


class TestInMemory(EngineContract):
    @pytest.fixture
    def make_engine(self) -> Callable[[], Any]:
        return InMemory

    @pytest.fixture
    def break_engine(self) -> Callable[[Any], None]:
        return lambda engine: setattr(engine, "broken", True)


class TestNvidiaAroundAPretendedLibrary(EngineContract):
    """Our shapes, buffers, parts of a batch, recorded launches; nothing of NVIDIA's is proved here."""

    @pytest.fixture(params=[False, True], ids=["launch by launch", "recorded"])
    def make_engine(
        self, tmp_path: Path, small: ModuleType, nvidia: ModuleType, request: pytest.FixtureRequest
    ) -> Callable[[], Any]:
        model = tmp_path / "fp32.onnx"
        model.write_bytes(small.graph())
        building = Building(batch_max=4, cuda_graphs=request.param)
        return lambda: open_engine(model, small.profile(engine="tensorrt", building=building))

    @pytest.fixture
    def break_engine(self) -> Callable[[Any], None]:
        class Broken:
            def __getattr__(self, name: str) -> Any:
                raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

        return lambda engine: setattr(engine, "_context", Broken())


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["tensorrt", "tensorrt_rtx"], scope="class")
class TestNvidia(EngineContract):
    @pytest.fixture
    def make_engine(self, tmp_path: Path, small: ModuleType, library: str) -> Callable[[], Any]:
        unproved = f"that {library} runs what it builds, with right numbers, is not proved"
        pytest.importorskip(library, reason=f"{library} is not installed: {unproved}")
        try:
            Driver()
        except DeviceError as error:
            pytest.skip(f"no NVIDIA GPU ({error.fact}): {unproved}")
        model = tmp_path / "fp32.onnx"
        model.write_bytes(small.graph())
        return lambda: open_engine(model, small.profile(engine=library, building=Building(batch_max=4)))

    @pytest.fixture
    def break_engine(self) -> Callable[[Any], None]:
        class Broken:
            def execute_async_v3(self, stream: int) -> bool:
                return False

        return lambda engine: setattr(engine, "_context", Broken())

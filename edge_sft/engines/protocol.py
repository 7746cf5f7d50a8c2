"""The Engine port and the registry of its implementations, imported on use."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from numpy.typing import NDArray

from edge_sft.errors import DeviceError
from edge_sft.profile import DeviceProfile


@dataclass(frozen=True)
class EngineInfo:
    """What really runs, as found out from the running session, never from what was asked for."""

    engine: str
    provider: str
    library_version: str
    threads: int


class Engine(Protocol):
    """A loaded model. Use as a context manager; one thread at a time calls `infer`.

    Any foreign exception of the library is raised as DeviceError; inputs that do not fit the graph (missing or
    extra names, dtype, shape) raise BugError before the library sees them.
    """

    @property
    def info(self) -> EngineInfo:
        """What really runs."""
        ...

    def infer(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one batch: graph inputs by name → graph outputs by name (batch axis first in all)."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class EngineEntry:
    """Where an engine lives and which extra brings it; ``module`` has ``open_engine(path, profile)``."""

    module: str
    extra: str


ENGINES: dict[str, EngineEntry] = {
    "onnxruntime": EngineEntry("edge_sft.engines.onnxruntime", "cpu or gpu"),
}


def open_engine(model: Path, profile: DeviceProfile) -> Engine:
    """Load an ONNX file on the engine that the profile names.

    Raises:
        DeviceError: The engine is unknown here, its library missing, or it refuses the model.
    """
    entry = ENGINES.get(profile.engine)
    if entry is None:
        raise DeviceError(
            f"engine '{profile.engine}'", "is not available in this version", f"Known: {', '.join(ENGINES)}."
        )
    try:
        module = import_module(entry.module)
    except ImportError as error:
        raise DeviceError(
            f"engine '{profile.engine}'",
            f"cannot be loaded ({error})",
            f"pip install 'edge-sft[{entry.extra}]'",
        ) from error
    engine: Engine = module.open_engine(model, profile)
    return engine

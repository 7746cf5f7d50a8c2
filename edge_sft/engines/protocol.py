"""The Engine port and the registry of its implementations, imported on use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from edge_sft.engines.plans import PlanCache
from edge_sft.errors import DeviceError
from edge_sft.profile import DeviceProfile


@dataclass(frozen=True)
class EngineInfo:
    """What really runs, as found out from the running session, never from what was asked for.

    Attributes:
        engine: ``onnxruntime``, ``tensorrt``, ``tensorrt_rtx``.
        provider: What of it computes.
        library_version: The library's own word.
        threads: Of the processor.
        gpu: The GPU's name; empty on a processor, as are the next two.
        compute_capability: For example 8.7.
        driver: NVIDIA's driver.
        plan: Whether the engine was built just now or came from the device's cache; empty where none is built.
        build_s: How long building took just now.
        notes: What the plant should know, in lines: why a cached engine was not used, that CUDA graphs failed.
    """

    engine: str
    provider: str
    library_version: str
    threads: int
    gpu: str = ""
    compute_capability: str = ""
    driver: str = ""
    plan: Literal["", "built", "cached"] = ""
    build_s: float | None = None
    notes: tuple[str, ...] = ()


class EngineNotBuilt(DeviceError):
    """No engine could be made of this variant on this device; another variant may do."""


def _silent(text: str, share: float | None) -> None:
    """Tell nobody."""


def _unchecked(engine: Engine) -> str:
    """Ask nothing."""
    del engine
    return ""


@dataclass(frozen=True)
class Workplace:
    """Where and how engines are built.

    Attributes:
        cache: None = nothing is kept.
        tell: Called with what is going on in words, and how much of it is done (0 to 1) where that is known.
        check: Called with an engine that was built, now or before, before it is used: returns what is to be noted
            of it, raises EngineNotBuilt where it answers wrongly.
        must_keep: Whether an engine that cannot be kept is refused: a start later would build it again for minutes.
    """

    cache: PlanCache | None = None
    tell: Callable[[str, float | None], None] = _silent
    check: Callable[[Engine], str] = _unchecked
    must_keep: bool = False


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
        """Run one batch: graph inputs by name → graph outputs by name (batch axis first in all).

        An input that the graph has a default for may be left out.
        """
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class EngineEntry:
    """Where an engine lives; ``module`` has ``open_engine(path, profile, workplace)``.

    Attributes:
        module: Imported on use.
        remedy: What to do where its library is missing.
        builds: Whether an engine is built of a variant, which takes minutes, before it runs.
    """

    module: str
    remedy: str
    builds: bool = False


ENGINES: dict[str, EngineEntry] = {
    "onnxruntime": EngineEntry("edge_sft.engines.onnxruntime", "pip install 'edge-sft[cpu]' or 'edge-sft[gpu]'"),
    "tensorrt": EngineEntry(
        "edge_sft.engines.tensorrt",
        "On a Jetson it comes with JetPack (a venv needs --system-site-packages); elsewhere: pip install tensorrt",
        builds=True,
    ),
    "tensorrt_rtx": EngineEntry("edge_sft.engines.tensorrt_rtx", "pip install 'edge-sft[rtx]'", builds=True),
}


def builds(profile: DeviceProfile) -> bool:
    """Tell whether the profile's engine is built of a variant before it runs."""
    entry = ENGINES.get(profile.engine)
    return entry is not None and entry.builds


def open_engine(model: Path, profile: DeviceProfile, building: Workplace | None = None) -> Engine:
    """Load an ONNX file on the engine that the profile names; where that builds, from the cache if it can.

    Args:
        model: The variant.
        profile: What to run on.
        building: Where engines are kept and who watches; by default nothing is kept.

    Raises:
        DeviceError: The engine is unknown here, its library missing, or it refuses the model.
        EngineNotBuilt: The library is there, but no engine could be made of this variant.
    """
    entry = ENGINES.get(profile.engine)
    if entry is None:
        raise DeviceError(
            f"engine '{profile.engine}'", "is not available in this version", f"Known: {', '.join(ENGINES)}."
        )
    try:
        engine: Engine = import_module(entry.module).open_engine(model, profile, building or Workplace())
    except ImportError as error:
        raise DeviceError(f"engine '{profile.engine}'", f"cannot be loaded ({error})", entry.remedy) from error
    return engine

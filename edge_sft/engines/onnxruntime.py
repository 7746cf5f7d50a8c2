"""ONNX Runtime as an Engine: honest about the provider, silent when idle, strict about what it is fed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_sft.engines import inputs as inputs_of
from edge_sft.engines.inputs import Shape
from edge_sft.engines.protocol import EngineInfo, Workplace
from edge_sft.errors import DeviceError
from edge_sft.profile import DeviceProfile, usable_threads

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(float)": np.dtype(np.float32),
}

T = TypeVar("T")


class OnnxRuntimeEngine:
    """A loaded session; a context manager, for one thread at a time."""

    def __init__(self, session: Any, info: EngineInfo, source: str) -> None:
        self._session = session
        self._info = info
        self._source = source
        optional = session.get_overridable_initializers()  # inputs with a default
        self._inputs: inputs_of.Specs = {
            item.name: (_dtype(item, source), _shape(item)) for item in (*session.get_inputs(), *optional)
        }
        self._optional = frozenset(item.name for item in optional)
        self._outputs = [item.name for item in session.get_outputs()]

    @property
    def info(self) -> EngineInfo:
        """What really runs."""
        return self._info

    def infer(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one batch: graph inputs by name → graph outputs by name.

        Raises:
            BugError: Names, dtype or shape do not fit the graph, or the engine is closed.
            DeviceError: The library failed.
        """
        session = self._session
        closed = session is None
        inputs_of.check(inputs, self._inputs, self._source, closed=closed, optional=self._optional)
        results = _wrapped(self._source, "failed while inferring", lambda: session.run(self._outputs, inputs))
        return dict(zip(self._outputs, results, strict=True))

    def close(self) -> None:
        """Free the session's memory; closing twice is harmless."""
        self._session = None

    def __enter__(self) -> OnnxRuntimeEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_engine(model: Path, profile: DeviceProfile, building: Workplace | None = None) -> OnnxRuntimeEngine:
    """Load an ONNX file with the provider and threads of the profile; nothing is built, so nothing is kept.

    Raises:
        DeviceError: The library is missing, refuses the model, or would run it elsewhere than asked.
    """
    import onnxruntime

    wanted = _PROVIDERS[profile.provider]
    if profile.provider == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN from pip's packages, where the system has none
    if wanted not in onnxruntime.get_available_providers():
        raise _not_on_provider(model, profile.provider, "this ONNX Runtime was built without it")
    threads = usable_threads(profile)
    # TF32 rounds FP32 products to 10 bits unless told not to; FP32 shall mean FP32 and golden samples agree.
    cuda = (wanted, {"use_tf32": "0"})
    providers = [wanted] if profile.provider == "cpu" else [cuda, _PROVIDERS["cpu"]]
    session = _wrapped(
        str(model),
        "is refused by ONNX Runtime",
        lambda: onnxruntime.InferenceSession(str(model), _options(onnxruntime, threads), providers=providers),
    )
    first = session.get_providers()[0]  # what it really chose: without CUDA's libraries it falls back in silence
    if first != wanted:
        raise _not_on_provider(model, profile.provider, f"ONNX Runtime fell back to {first}")
    info = EngineInfo("onnxruntime", first, str(onnxruntime.__version__), threads)
    if profile.provider == "cuda":
        info = _with_gpu(info)
    return OnnxRuntimeEngine(session, info, str(model))


def _with_gpu(info: EngineInfo) -> EngineInfo:
    from edge_sft.engines.nvidia.cuda import Driver

    gpu = Driver().gpu()
    return replace(info, gpu=gpu.name, compute_capability=gpu.compute_capability, driver=gpu.driver)


def _options(library: Any, threads: int) -> Any:
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal only: every other trouble comes back as an exception, in words
    # Idle workers that spin take the cores from cameras and from other pipelines on the same PC.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _wrapped(thing: str, fact: str, call: Callable[[], T]) -> T:
    """Run a call into the library; whatever it raises comes out as DeviceError."""
    try:
        return call()
    except Exception as error:
        raise DeviceError(thing, f"{fact} ({_first_line(error)})", "Try another variant, or build it again.") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]


def _not_on_provider(model: Path, provider: str, why: str) -> DeviceError:
    return DeviceError(
        str(model),
        f"cannot run on {provider}: {why}",
        "Install edge-sft[gpu] and the driver's libraries (run: edge-sft doctor), or choose a cpu profile.",
    )


def _dtype(item: Any, source: str) -> np.dtype[Any]:
    dtype = _DTYPES.get(item.type)
    if dtype is None:
        raise DeviceError(source, f"has an input '{item.name}' of type {item.type}", "No bundle v1 has such inputs.")
    return dtype


def _shape(item: Any) -> Shape:
    return tuple(axis if isinstance(axis, int) else None for axis in item.shape)

"""The bare loop that an engine is held against: its library alone, inputs that lie ready, nothing checked.

The same options and threads as the engine's (a test compares the two sessions), written out a second time on purpose:
what a user would write who calls the library himself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_sft.deploy.golden import Arrays
from edge_sft.engines.protocol import EngineInfo
from edge_sft.errors import DeviceError

Run = Callable[[], object]
Bare = Callable[[Arrays], Run]


def open_bare(model: Path, engine: EngineInfo) -> Bare:
    """Load a model into the library that an engine runs on; what is returned makes a loop's body of inputs.

    Raises:
        DeviceError: There is no such loop for this engine, or the library refuses the model.
    """
    opener = _OPENERS.get(engine.engine)
    if opener is None:
        raise DeviceError(engine.engine, "has no bare loop to be held against")
    return opener(model, engine)


def session(model: Path, engine: EngineInfo) -> Any:
    """Open ONNX Runtime as its users do. Raises DeviceError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = engine.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    if engine.provider == "CUDAExecutionProvider":
        providers.insert(0, (engine.provider, {"use_tf32": "0"}))
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=providers)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DeviceError(str(model), f"is refused by ONNX Runtime ({first[:200]})") from error


def _onnxruntime(model: Path, engine: EngineInfo) -> Bare:
    opened = session(model, engine)
    return lambda inputs: lambda: opened.run(None, inputs)


_OPENERS: dict[str, Callable[[Path, EngineInfo], Bare]] = {"onnxruntime": _onnxruntime}

"""The bare loop that an engine is held against: its library alone, inputs that lie ready, nothing checked.

The same options and threads as the engine's (a test compares the two sessions), written out a second time on purpose:
what a user would write who calls the library himself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_sft.deploy.bench_bare_nvidia import NvidiaLoop
from edge_sft.engines.nvidia.running import NvidiaEngine
from edge_sft.engines.protocol import Engine, EngineInfo
from edge_sft.errors import DeviceError
from edge_sft.slots.golden import Arrays

Run = Callable[[], object]
Bare = Callable[[Arrays], Run]


def open_bare(model: Path, engine: Engine) -> Bare:
    """Load a model into the library that an engine runs on; what is returned makes a loop's body of inputs.

    Args:
        model: The variant.
        engine: What the loop is held against; where engines are built, the loop runs that very one.

    Raises:
        DeviceError: There is no such loop for this engine, or the library refuses the model.
    """
    if isinstance(engine, NvidiaEngine):
        loaded, cuda = engine.loaded
        once = engine.defaults
        return lambda inputs: NvidiaLoop(loaded, cuda, inputs, {n: a for n, a in once.items() if n not in inputs})
    if engine.info.engine != "onnxruntime":
        raise DeviceError(engine.info.engine, "has no bare loop to be held against")
    opened = session(model, engine.info)
    return lambda inputs: lambda: opened.run(None, inputs)


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

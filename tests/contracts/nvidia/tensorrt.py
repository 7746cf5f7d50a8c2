"""A `tensorrt` without NVIDIA, for tests of what is around it: a "plan" is the ONNX itself, and ONNX Runtime runs it
where the real one would run kernels. FAKE_TRT says, by the model's seed or for all, how a build ends."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import Any

import numpy as np

__version__ = os.environ.get("FAKE_TRT_VERSION", "10.3.0")
_CUDA = ctypes.CDLL(os.environ.get("FAKE_CUDA", "libcuda.so.1"))
_CUDA.fake_execute.argtypes = [ctypes.c_void_p]
_LAUNCH = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_contexts: dict[int, Any] = {}
PLAN = b"a plan of " + __version__.encode() + b"\n"
WRONG = b"whose kernels are wrong from the second picture on\n"
deserialized: list[bytes] = []  # all that came near "machine code"


class _Enum(int):
    name = ""

    def __new__(cls, name: str, value: int) -> _Enum:
        made = super().__new__(cls, value)
        made.name = name
        return made


class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = _Enum("STRONGLY_TYPED", 1)


class BuilderFlag:
    TF32 = "TF32"


class MemoryPoolType:
    WORKSPACE = "WORKSPACE"


class TensorIOMode:
    INPUT, OUTPUT = "INPUT", "OUTPUT"


class ILogger:
    class Severity:
        INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2

    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    pass


class Memory(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


def _session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class Tensor:
    def __init__(self, item: Any) -> None:
        self.name = item.name
        self.shape = [axis if isinstance(axis, int) else -1 for axis in item.shape]
        self.kind = {"tensor(uint8)": "UINT8", "tensor(float)": "FLOAT", "tensor(int32)": "INT32"}[item.type]


class Network:
    def __init__(self) -> None:
        self.content = b""
        self.inputs: list[Tensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]


class Complaint:
    def __init__(self, text: str) -> None:
        self.text = text

    def desc(self) -> str:
        return self.text

    def node_name(self) -> str:
        return "node_1"

    def node_operator(self) -> str:
        return "NonZero"


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Network, logger: Any) -> None:
        self.network = network

    def parse(self, model: bytes) -> bool:
        if _how(model) == "refuse":
            self.num_errors = 1
            return False
        self.network.content = model
        self.network.inputs = [Tensor(item) for item in _session(model).get_inputs()]
        return True

    def get_error(self, index: int) -> Complaint:
        return Complaint("no importer registered")


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        self.shapes[input] = (min, opt, max)


class Timing:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> Memory:
        return Memory(self.content + b"timed;")


class Config:
    progress_monitor: Any = None

    def __init__(self) -> None:
        self.timing: Timing | None = None

    def add_optimization_profile(self, profile: Profile) -> int:
        return 0

    def set_memory_pool_limit(self, pool: str, pool_size: int) -> None:
        pass

    def clear_flag(self, flag: str) -> None:
        pass

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Timing:
        return Timing(serialized_timing_cache)

    def set_timing_cache(self, cache: Timing, ignore_mismatch: bool) -> bool:
        self.timing = cache
        return True

    def get_timing_cache(self) -> Timing | None:
        return self.timing


def _how(content: bytes) -> str:
    """Return how the build of this model ends: FAKE_TRT is `how` or `how:text that the model contains`."""
    how, _, of = os.environ.get("FAKE_TRT", "").partition(":")
    return how if not of or of.encode() in content else ""


class Builder:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def create_network(self, flags: int = 0) -> Network:
        assert flags == 2, "a network must be strongly typed"
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> Memory | None:
        how, monitor = _how(network.content), config.progress_monitor
        monitor.phase_start("Building", None, 10)
        for step in range(10):
            if how == "crash" and step == 3:
                os.kill(os.getpid(), signal.SIGSEGV)
            if how == "killed" and step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "hang":
                time.sleep(60)
            if how == "slow":
                time.sleep(0.1)
            if not monitor.step_complete("Building", step):
                return None
        monitor.phase_finish("Building")
        if how == "memory":
            self.logger.log(ILogger.Severity.ERROR, "[defaultAllocator.cpp] Error Code 1: Cuda Runtime (out of memory)")
            return None
        return Memory(PLAN + (WRONG if how == "wrong" else b"") + network.content)


class Runtime:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        deserialized.append(bytes(serialized_engine))
        if not serialized_engine.startswith(PLAN):
            self.logger.log(ILogger.Severity.ERROR, "Serialization assertion plan->header.magicTag failed")
            return None
        content = serialized_engine[len(PLAN) :]
        return Engine(content.removeprefix(WRONG), wrong=content.startswith(WRONG))


class Engine:
    def __init__(self, content: bytes, *, wrong: bool) -> None:
        self.session = _session(content)
        self.wrong, self.runs = wrong, 0
        self.inputs = {item.name: Tensor(item) for item in self.session.get_inputs()}
        self.tensors = self.inputs | {item.name: Tensor(item) for item in self.session.get_outputs()}

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> str:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> _Enum:
        return _Enum(self.tensors[name].kind, 0)

    def get_tensor_shape(self, name: str) -> list[int]:
        return self.tensors[name].shape

    def create_execution_context(self) -> Context:
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        _contexts[id(self)] = self

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> list[int]:
        batch = next(s[0] for n, s in self.shapes.items() if self.engine.inputs[n].shape[:1] == [-1])
        return [batch if axis == -1 else axis for axis in self.engine.tensors[name].shape]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle
        return not _CUDA.fake_execute(id(self))

    def run(self) -> None:
        inputs = {name: self._at(name, self.shapes[name]) for name in self.engine.inputs}
        names = [item.name for item in self.engine.session.get_outputs()]
        for name, values in zip(names, self.engine.session.run(names, inputs), strict=True):
            self._at(name, values.shape)[...] = values + 0.25 * (self.engine.wrong and self.engine.runs > 0)
        self.engine.runs += 1

    def _at(self, name: str, shape: Any) -> np.ndarray:
        dtype = {"UINT8": np.uint8, "FLOAT": np.float32, "INT32": np.int32}[self.engine.tensors[name].kind]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.addresses[name]))
        return raw.view(dtype).reshape(shape)


@_LAUNCH
def _launch(context: int) -> None:
    _contexts[context].run()


ctypes.c_void_p.in_dll(_CUDA, "fake_launch").value = ctypes.cast(_launch, ctypes.c_void_p).value

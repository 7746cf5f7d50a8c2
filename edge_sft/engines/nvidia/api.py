"""All that we call of TensorRT 10.3 to 11.x and of TensorRT-RTX 1.x, as types: mypy holds our code to it.

A test holds it to the real bindings of each version (tests/engines/test_api.py), so what is written here exists
there, with these arguments. `Rtx…` is what only TensorRT-RTX has. Not one precision flag and no calibrator:
TensorRT 11 has none; half precision is an FP16 ONNX and INT8 is Q/DQ in the ONNX, in every version.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, SupportsInt

Dims = Iterable[int]


class ParserError(Protocol):
    """One complaint of the ONNX parser."""

    def desc(self) -> str: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    """ONNX → network. The network uses its memory: it must outlive the build."""

    num_errors: int

    def parse(self, model: bytes) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class ITensor(Protocol):
    """An input of the network; -1 where its shape is open."""

    name: str
    shape: Dims


class INetworkDefinition(Protocol):
    """The graph to be built."""

    num_inputs: int

    def get_input(self, index: int) -> ITensor: ...


class IOptimizationProfile(Protocol):
    """Which shapes the engine must take."""

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None: ...  # noqa: A002


class IHostMemory(Protocol):
    """Bytes of the library; a buffer."""

    nbytes: int


class ITimingCache(Protocol):
    """How fast each kernel was when it was tried here."""

    def serialize(self) -> IHostMemory: ...


class IBuilderConfig(Protocol):
    """How to build."""

    progress_monitor: Any

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int: ...
    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None: ...
    def clear_flag(self, flag: Any) -> None: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None: ...
    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> ITimingCache | None: ...


class Builder(Protocol):
    """Builds engines."""

    def create_network(self, flags: int) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def create_optimization_profile(self) -> IOptimizationProfile: ...
    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None: ...


class IExecutionContext(Protocol):
    """An engine's state while it runs."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...
    def get_tensor_shape(self, name: str) -> Dims: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class ICudaEngine(Protocol):
    """A deserialized plan."""

    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Any: ...
    def get_tensor_dtype(self, name: str) -> Any: ...
    def get_tensor_shape(self, name: str) -> Dims: ...
    def create_execution_context(self) -> IExecutionContext | None: ...


class Runtime(Protocol):
    """Turns plans into engines. A plan is code: it is verified before it comes here."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None: ...


class ILogger(Protocol):
    """Where the library's messages go; we implement it."""

    def log(self, severity: Any, msg: str) -> None: ...


class Severity(Protocol):
    """Of a message; `ILogger.Severity` in the library."""

    ERROR: Any
    INTERNAL_ERROR: Any


class IProgressMonitor(Protocol):
    """How far a build is; we implement it."""

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
    def step_complete(self, phase_name: str, step: int) -> bool: ...
    def phase_finish(self, phase_name: str) -> None: ...


class NetworkDefinitionCreationFlag(Protocol):
    """On 11 and RTX every network is strongly typed; the flag is still there and says the same."""

    STRONGLY_TYPED: SupportsInt


class BuilderFlag(Protocol):
    """TF32 is on unless cleared, and rounds FP32 products to 10 bits."""

    TF32: Any


class MemoryPoolType(Protocol):
    """What a build may use."""

    WORKSPACE: Any


class DataType(Protocol):
    """Of a tensor; we tell them apart by their names."""

    FLOAT: Any
    HALF: Any
    INT8: Any
    INT32: Any
    INT64: Any
    BOOL: Any
    UINT8: Any


class TensorIOMode(Protocol):
    """Input or output."""

    INPUT: Any


class Library(Protocol):
    """The module `tensorrt` or `tensorrt_rtx`."""

    __version__: str
    ILogger: Any
    IProgressMonitor: Any
    NetworkDefinitionCreationFlag: NetworkDefinitionCreationFlag
    BuilderFlag: BuilderFlag
    MemoryPoolType: MemoryPoolType
    TensorIOMode: TensorIOMode

    def Builder(self, logger: Any) -> Builder: ...  # noqa: N802
    def OnnxParser(self, network: INetworkDefinition, logger: Any) -> OnnxParser: ...  # noqa: N802
    def Runtime(self, logger: Any) -> Runtime: ...  # noqa: N802


class RtxIBuilderConfig(IBuilderConfig, Protocol):
    """TensorRT-RTX builds ahead of time for other GPUs than the one at hand, even where there is none."""

    num_compute_capabilities: int

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool: ...


class RtxIRuntimeCache(Protocol):
    """Kernels that TensorRT-RTX compiled when the engine first ran."""

    def deserialize(self, blob: bytes) -> bool: ...
    def serialize(self) -> IHostMemory | None: ...


class RtxIRuntimeConfig(Protocol):
    """How TensorRT-RTX runs an engine. Its own CUDA graphs know when its kernels are final, ours would not."""

    cuda_graph_strategy: Any

    def create_runtime_cache(self) -> RtxIRuntimeCache: ...
    def set_runtime_cache(self, cache: RtxIRuntimeCache) -> bool: ...


class RtxICudaEngine(Protocol):
    """A deserialized plan of TensorRT-RTX."""

    def create_runtime_config(self) -> RtxIRuntimeConfig: ...
    def create_execution_context(self, runtime_config: RtxIRuntimeConfig) -> IExecutionContext | None: ...


class RtxComputeCapability(Protocol):
    """Which GPUs an engine of TensorRT-RTX may be built for; the member CURRENT is the GPU at hand."""

    CURRENT: Any


class RtxCudaGraphStrategy(Protocol):
    """Who records CUDA graphs."""

    WHOLE_GRAPH_CAPTURE: Any

"""A plan that runs: pinned buffers, one stream, one execution context, and a recorded launch where asked for."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from math import prod
from types import MappingProxyType, TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edge_sft.engines import inputs as checking
from edge_sft.engines.nvidia import api
from edge_sft.engines.nvidia.cuda import Cuda
from edge_sft.engines.nvidia.logging import logger
from edge_sft.engines.protocol import EngineInfo
from edge_sft.errors import BugError, DeviceError, EdgeSftError
from edge_sft.profile import Building

_DTYPES: dict[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "INT8": np.dtype(np.int8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
}
_AGAIN = "Deploy the bundle again, so that its engine is built anew."


@dataclass(frozen=True)
class _Tensor:
    """An input or output: its place on the GPU, and pinned memory seen as an array of the largest batch."""

    name: str
    axes: checking.Shape
    address: int
    pinned: int
    host: NDArray[Any]

    @property
    def batched(self) -> bool:
        """Whether it has a row a sample."""
        return self.axes[:1] == (None,)

    def rows(self, batch: int) -> NDArray[Any]:
        """Return the host's array for a batch; all of it where the tensor has no batch axis."""
        return self.host[:batch] if self.batched else self.host


class NvidiaEngine:
    """A deserialized plan; a context manager, for one thread at a time, from whatever thread.

    Args:
        library: `tensorrt` or `tensorrt_rtx`.
        plan: Verified already: it is code.
        cuda: The GPU.
        info: What is known of it.
        source: The variant's file, for messages.
        settings: The profile's.
        compiled: TensorRT-RTX only: kernels that it compiled when the engine ran before; empty for none.
        keep: TensorRT-RTX only: called with such kernels after the first run.
        defaults: What is fed for inputs that are left out.

    Raises:
        DeviceError: The library refuses the plan, or the GPU has no room.
    """

    def __init__(
        self,
        library: api.Library,
        plan: bytes,
        cuda: Cuda,
        info: EngineInfo,
        source: str,
        settings: Building,
        *,
        compiled: bytes = b"",
        keep: Callable[[bytes], None] = lambda compiled: None,
        defaults: Mapping[str, NDArray[Any]] = MappingProxyType({}),
    ) -> None:
        self._library, self._cuda, self._source, self._info = library, cuda, source, info
        self._batch_max = settings.batch_max or 1
        self._own_graphs = settings.cuda_graphs and not hasattr(library, "IRuntimeCache")
        self._launch = self._batch = self._stream = 0
        self._inputs: dict[str, _Tensor] = {}
        self._outputs: dict[str, _Tensor] = {}
        log, self._messages = logger(cast("Hashable", library))
        self._mark = self._messages.mark()
        self._keep, self._was_kept = keep, False
        self._defaults = dict(defaults)
        self._there: dict[str, NDArray[Any]] = {}  # what is on the GPU already and cannot have changed since
        cuda.enter()
        try:
            self._runtime = library.Runtime(log)  # must outlive the engine
            self._engine = self._made("loads no such plan", self._runtime.deserialize_cuda_engine(plan))
            self._compiled, context = self._context_of(compiled, graphs=settings.cuda_graphs)
            self._context: api.IExecutionContext | None = self._made("has no room to run", context)
            self._stream = cuda.open_stream()
            self._lay_out()
        except BaseException:
            self.close()
            raise
        self._specs: checking.Specs = {name: (each.host.dtype, each.axes) for name, each in self._inputs.items()}

    @property
    def info(self) -> EngineInfo:
        """What really runs."""
        return self._info

    def infer(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one batch of any size, in parts of at most the engine's: graph inputs → graph outputs, by name.

        Raises:
            BugError: Names, dtype or shape do not fit the graph, or the engine is closed.
            DeviceError: The library or the GPU failed.
        """
        closed = self._context is None
        checking.check(inputs, self._specs, self._source, closed=closed, optional=self._defaults.keys())
        inputs = self._defaults | inputs
        batches = {len(inputs[name]) for name, each in self._inputs.items() if each.batched}
        if len(batches) > 1:
            raise BugError(self._source, f"was given batches of different sizes {sorted(batches)}", "Please report it.")
        total = next(iter(batches), 1)
        step = self._batch_max
        try:
            self._cuda.enter()  # a pipeline opens in one thread and infers in another
            parts = [self._part(inputs, at, min(step, total - at)) for at in range(0, total, step)]
            self._keep_compiled()
        except EdgeSftError:
            raise
        except Exception as error:
            raise DeviceError(self._source, f"failed while inferring ({error})", _AGAIN) from error
        if len(parts) == 1:
            return parts[0]
        return {
            name: np.concatenate([part[name] for part in parts]) if each.batched else parts[0][name]
            for name, each in self._outputs.items()
        }

    @property
    def loaded(self) -> tuple[api.ICudaEngine, Cuda]:
        """The library's engine and the GPU that it is on, for who calls them himself; theirs while this is open."""
        return self._engine, self._cuda

    @property
    def defaults(self) -> Mapping[str, NDArray[Any]]:
        """What is fed for inputs that are left out."""
        return MappingProxyType(self._defaults)

    def close(self) -> None:
        """Free the GPU's memory; closing twice is harmless."""
        self._context = None
        with contextlib.suppress(DeviceError):
            self._cuda.enter()
        self._forget_launch()
        for tensor in (*self._inputs.values(), *self._outputs.values()):
            for give_back, place in ((self._cuda.free, tensor.address), (self._cuda.unpin, tensor.pinned)):
                with contextlib.suppress(DeviceError):
                    give_back(place)
        self._inputs, self._outputs = {}, {}
        if self._stream:
            with contextlib.suppress(DeviceError):
                self._cuda.close_stream(self._stream)
            self._stream = 0
        for name in ("_compiled", "_engine", "_runtime"):  # in this order: each lives on the next
            self.__dict__.pop(name, None)

    def __enter__(self) -> NvidiaEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _part(self, inputs: dict[str, NDArray[Any]], at: int, batch: int) -> dict[str, NDArray[Any]]:
        for name, tensor in self._inputs.items():
            if tensor.batched:
                np.copyto(tensor.rows(batch), inputs[name][at : at + batch])
            elif self._there.get(name) is not inputs[name]:
                self._bring(name, tensor, inputs[name])
        if batch != self._batch:
            self._reshape(batch)
        if self._launch:
            self._cuda.replay(self._launch, self._stream)
        else:
            self._queue(batch)
        self._cuda.wait(self._stream)
        if self._own_graphs and not self._launch:
            self._record(batch)
        return {name: tensor.rows(batch).copy() for name, tensor in self._outputs.items()}

    def _bring(self, name: str, tensor: _Tensor, array: NDArray[Any]) -> None:
        """Bring what is the same for a whole batch to the GPU: megabytes of memory, once unless it may change."""
        self._there.pop(name, None)
        np.copyto(tensor.host, array)
        self._cuda.to_gpu(tensor.address, tensor.pinned, tensor.host.nbytes, self._stream)
        if not array.flags.writeable:
            self._there[name] = array

    def _queue(self, batch: int) -> None:
        for tensor in (each for each in self._inputs.values() if each.batched):
            self._cuda.to_gpu(tensor.address, tensor.pinned, tensor.rows(batch).nbytes, self._stream)
        if self._context is None or not self._context.execute_async_v3(self._stream):
            raise DeviceError(self._source, f"failed while inferring ({self._said()})", _AGAIN)
        for tensor in self._outputs.values():
            self._cuda.to_host(tensor.pinned, tensor.address, tensor.rows(batch).nbytes, self._stream)

    def _record(self, batch: int) -> None:
        """Record the launch that has just run once, copies included; where that fails, go on without, and say so."""
        try:
            self._cuda.record(self._stream)
            try:
                self._queue(batch)
            finally:
                self._launch = self._cuda.recorded(self._stream)
        except DeviceError as error:
            self._own_graphs = False
            self._forget_launch()
            self.note(f"CUDA graphs do not work with this model, every kernel is launched by itself ({error.fact})")

    def _reshape(self, batch: int) -> None:
        self._forget_launch()  # a recorded launch is of one shape
        for name, tensor in self._inputs.items():
            shape = tensor.rows(batch).shape
            if self._context is None or not self._context.set_input_shape(name, shape):
                raise DeviceError(self._source, f"takes no '{name}' of {shape} ({self._said()})", _AGAIN)
        self._batch = batch

    def _lay_out(self) -> None:
        """Reserve memory for the largest batch, once: addresses never change afterwards."""
        engine, context = self._engine, self._context
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = {name for name in names if engine.get_tensor_mode(name) == self._library.TensorIOMode.INPUT}
        for name in sorted(names, key=lambda name: name not in inputs):  # inputs first: they give the outputs' shapes
            axes = tuple(None if axis == -1 else int(axis) for axis in engine.get_tensor_shape(name))
            shape = tuple(self._batch_max if axis is None else axis for axis in axes)
            if context is None or (name in inputs and not context.set_input_shape(name, shape)):
                raise DeviceError(self._source, f"takes no '{name}' of {shape} ({self._said()})", _AGAIN)
            if name not in inputs:
                shape = tuple(int(axis) for axis in context.get_tensor_shape(name))
            kind = engine.get_tensor_dtype(name).name
            if kind not in _DTYPES or min(shape, default=1) < 0 or None in axes[1:]:
                raise DeviceError(self._source, f"has a tensor '{name}' of {kind} {axes}", "No bundle v1 has such.")
            (self._inputs if name in inputs else self._outputs)[name] = tensor = self._reserve(name, axes, shape, kind)
            if not context.set_tensor_address(name, tensor.address):
                raise DeviceError(self._source, f"takes no memory for '{name}' ({self._said()})", _AGAIN)

    def _reserve(self, name: str, axes: checking.Shape, shape: tuple[int, ...], kind: str) -> _Tensor:
        size = prod(shape) * _DTYPES[kind].itemsize
        address = self._cuda.allocate(size)
        try:
            pinned = self._cuda.pin(size)
        except DeviceError:
            self._cuda.free(address)
            raise
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pinned))
        return _Tensor(name, axes, address, pinned, raw.view(_DTYPES[kind]).reshape(shape))

    def _context_of(
        self, compiled: bytes, *, graphs: bool
    ) -> tuple[api.RtxIRuntimeCache | None, api.IExecutionContext | None]:
        library: Any = self._library
        if not hasattr(library, "IRuntimeCache"):
            return None, self._engine.create_execution_context()
        engine = cast("api.RtxICudaEngine", self._engine)
        config = engine.create_runtime_config()
        cache = config.create_runtime_cache()
        if compiled:
            cache.deserialize(compiled)  # refused by the library where it does not fit: then it compiles anew
        config.set_runtime_cache(cache)
        if graphs and not hasattr(library, "CudaGraphStrategy"):
            self.note("this TensorRT-RTX has no CUDA graphs of its own; they are left out")
        elif graphs:
            config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return cache, engine.create_execution_context(config)

    def _keep_compiled(self) -> None:
        if self._compiled is None or self._was_kept:
            return
        self._was_kept = True
        content = self._compiled.serialize()
        if content is not None and content.nbytes:
            try:
                self._keep(bytes(cast("bytes", content)))
            except (EdgeSftError, OSError) as error:
                self.note(f"compiled kernels could not be kept for the next start: {error}")

    def _made(self, fact: str, thing: Any) -> Any:
        if thing is None:
            raise DeviceError(self._source, f"{self._info.provider} {fact} ({self._said()})", _AGAIN)
        return thing

    def _said(self) -> str:
        mark, self._mark = self._mark, self._messages.mark()
        return self._messages.since(mark)

    def note(self, line: str) -> None:
        """Add a line to what the plant should know."""
        self._info = replace(self._info, notes=(*self._info.notes, line))

    def _forget_launch(self) -> None:
        if self._launch:
            with contextlib.suppress(DeviceError):
                self._cuda.forget(self._launch)
            self._launch = 0

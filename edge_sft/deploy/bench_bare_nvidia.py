"""TensorRT's bare loop, as NVIDIA's own samples write it: buffers made once; copy, enqueue, copy, wait.

The engine is the one that it is held against, in an execution context of its own. Nothing is checked or recorded, no
result is copied out of the pinned memory, and no batch is split.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.engines.nvidia import api
from edge_sft.engines.nvidia.cuda import Cuda
from edge_sft.errors import DeviceError
from edge_sft.slots.golden import Arrays

_SIZES = {"FLOAT": 4, "HALF": 2, "INT8": 1, "INT32": 4, "INT64": 8, "BOOL": 1, "UINT8": 1}


@dataclass(frozen=True)
class _Buffer:
    """A tensor's place on the GPU and in pinned memory; ``host`` is the latter seen as bytes."""

    gpu: int
    pinned: int
    host: NDArray[np.uint8]


class NvidiaLoop:
    """The loop's body for one set of inputs. It lives as long as the measuring process and gives nothing back.

    Args:
        engine: The plan.
        cuda: The GPU.
        inputs: Copied to the GPU at every run.
        once: Inputs that are copied there once, as an engine does with a memory.

    Raises:
        DeviceError: The engine takes no such inputs, or the GPU has no room for a second context.
    """

    def __init__(self, engine: api.ICudaEngine, cuda: Cuda, inputs: Arrays, once: Arrays | None = None) -> None:
        cuda.enter()
        context = engine.create_execution_context()
        if context is None:
            raise DeviceError("TensorRT", "has no room for a second context beside the engine's")
        self._context, self._cuda, self._stream = context, cuda, cuda.open_stream()
        for name, array in {**inputs, **(once or {})}.items():
            if not context.set_input_shape(name, array.shape):
                raise DeviceError("TensorRT", f"takes no '{name}' of {array.shape} at once with this engine")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._buffers = {name: self._buffer(engine, name) for name in names}
        self._given = {name: np.ascontiguousarray(array).view(np.uint8).reshape(-1) for name, array in inputs.items()}
        self._taken = [self._buffers[name] for name in names if name not in inputs and name not in (once or {})]
        for name, array in (once or {}).items():
            self._copy(self._buffers[name], np.ascontiguousarray(array).view(np.uint8).reshape(-1))
        cuda.wait(self._stream)

    def __call__(self) -> None:
        """Run once."""
        cuda, stream = self._cuda, self._stream
        for name, given in self._given.items():
            self._copy(self._buffers[name], given)
        if not self._context.execute_async_v3(stream):
            raise DeviceError("TensorRT", "failed in the bare loop")
        for buffer in self._taken:
            cuda.to_host(buffer.pinned, buffer.gpu, buffer.host.nbytes, stream)
        cuda.wait(stream)

    def _copy(self, buffer: _Buffer, given: NDArray[np.uint8]) -> None:
        np.copyto(buffer.host, given)
        self._cuda.to_gpu(buffer.gpu, buffer.pinned, given.nbytes, self._stream)

    def output(self, name: str, dtype: Any) -> NDArray[Any]:
        """Return an output of the last run, flat."""
        return self._buffers[name].host.view(dtype)

    def _buffer(self, engine: api.ICudaEngine, name: str) -> _Buffer:
        size = prod(self._context.get_tensor_shape(name)) * _SIZES[engine.get_tensor_dtype(name).name]
        gpu, pinned = self._cuda.allocate(size), self._cuda.pin(size)
        self._context.set_tensor_address(name, gpu)
        return _Buffer(gpu, pinned, np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pinned)))

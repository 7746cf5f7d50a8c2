"""The GPU through its driver's own library: memory, streams, recorded launches, and what the GPU is.

Some functions of `libcuda.so.1`, which comes with every NVIDIA driver and on every Jetson and whose interface is
frozen; so no CUDA toolkit, no wheel and no choice between CUDA 11, 12 and 13 is needed (docs/adr/0008).
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from edge_sft.errors import DeviceError

_POINTER = POINTER(c_void_p)
_ADDRESS = c_ulonglong  # CUdeviceptr

# Name in the library: argument types. A test compares them with NVIDIA's cuda.h.
FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDeviceTotalMem_v2": (POINTER(c_size_t), c_int),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuDevicePrimaryCtxRetain": (_POINTER, c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(_ADDRESS), c_size_t),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemHostAlloc": (_POINTER, c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (_ADDRESS, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, _ADDRESS, c_size_t, c_void_p),
    "cuStreamCreate": (_POINTER, c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, _POINTER),
    "cuGraphInstantiateWithFlags": (_POINTER, c_void_p, c_ulonglong),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
}
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: not held up by other libraries' default stream
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: another thread's allocation must not spoil the recording
_NO_GPU = "Check the driver (nvidia-smi), or choose a cpu profile."


@dataclass(frozen=True)
class Gpu:
    """What a plan is bound to. ``compute_capability`` as in 8.7; ``driver`` as NVIDIA writes it."""

    name: str
    compute_capability: str
    memory_mb: int
    driver: str


class Cuda(Protocol):
    """The GPU, as an engine needs it; every method raises DeviceError where the driver refuses."""

    def gpu(self) -> Gpu:
        """Return what is here."""
        ...

    def enter(self) -> None:
        """Make the GPU current in the calling thread; cheap."""
        ...

    def allocate(self, size: int) -> int:
        """Return the address of ``size`` bytes on the GPU."""
        ...

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        ...

    def pin(self, size: int) -> int:
        """Return the address of ``size`` bytes of host memory that the GPU reads and writes by itself."""
        ...

    def unpin(self, address: int) -> None:
        """Give back what `pin` gave."""
        ...

    def open_stream(self) -> int:
        """Return a new stream."""
        ...

    def close_stream(self, stream: int) -> None:
        """Give a stream back."""
        ...

    def to_gpu(self, target: int, source: int, size: int, stream: int) -> None:
        """Queue a copy of ``size`` bytes from pinned memory to the GPU."""
        ...

    def to_host(self, target: int, source: int, size: int, stream: int) -> None:
        """Queue a copy of ``size`` bytes from the GPU to pinned memory."""
        ...

    def wait(self, stream: int) -> None:
        """Return when all that was queued is done."""
        ...

    def record(self, stream: int) -> None:
        """From now on do not run what is queued but record it."""
        ...

    def recorded(self, stream: int) -> int:
        """End recording; return the launch that replays it."""
        ...

    def replay(self, launch: int, stream: int) -> None:
        """Queue a recorded launch."""
        ...

    def forget(self, launch: int) -> None:
        """Give a recorded launch back."""
        ...


class Driver:
    """The real one, for the first GPU that CUDA_VISIBLE_DEVICES leaves visible. Raises DeviceError without a GPU."""

    def __init__(self) -> None:
        self._library = _load()
        for name, arguments in FUNCTIONS.items():
            getattr(self._library, name).argtypes = arguments
        self._call("cuInit", 0)
        count = c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if not count.value:
            raise DeviceError("NVIDIA GPU", "is not there: the driver finds none", _NO_GPU)
        device = c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._device = device.value
        self._context: int | None = None

    def gpu(self) -> Gpu:
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), self._device)
        memory = c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(memory), self._device)
        capability = f"{self._attribute(_CAPABILITY_MAJOR)}.{self._attribute(_CAPABILITY_MINOR)}"
        return Gpu(name.value.decode(errors="replace"), capability, memory.value >> 20, self._driver())

    def enter(self) -> None:
        if self._context is None:  # the primary one: what TensorRT's own calls use
            self._context = self._handle("cuDevicePrimaryCtxRetain", self._device)
        self._call("cuCtxSetCurrent", self._context)

    def used_mb(self) -> float:
        """Return the GPU's memory in use by everybody, MiB; where it shares the processor's, that of all programs."""
        free, total = c_size_t(), c_size_t()
        self.enter()  # it is asked of a context
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return (total.value - free.value) / (1 << 20)

    def allocate(self, size: int) -> int:
        address = _ADDRESS()
        self._call("cuMemAlloc_v2", ctypes.byref(address), size)
        return address.value

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", address)

    def pin(self, size: int) -> int:
        return self._handle("cuMemHostAlloc", size, 0)

    def unpin(self, address: int) -> None:
        self._call("cuMemFreeHost", address)

    def open_stream(self) -> int:
        return self._handle("cuStreamCreate", _NON_BLOCKING)

    def close_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy_v2", stream)

    def to_gpu(self, target: int, source: int, size: int, stream: int) -> None:
        self._call("cuMemcpyHtoDAsync_v2", target, source, size, stream)

    def to_host(self, target: int, source: int, size: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync_v2", target, source, size, stream)

    def wait(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def record(self, stream: int) -> None:
        self._call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)

    def recorded(self, stream: int) -> int:
        graph = c_void_p()
        self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
        try:
            return self._handle("cuGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

    def replay(self, launch: int, stream: int) -> None:
        self._call("cuGraphLaunch", launch, stream)

    def forget(self, launch: int) -> None:
        self._call("cuGraphExecDestroy", launch)

    def _handle(self, function: str, *arguments: Any) -> int:
        """Call a function whose first argument takes what it makes."""
        made = c_void_p()
        self._call(function, ctypes.byref(made), *arguments)
        return made.value or 0

    def _call(self, function: str, *arguments: Any) -> None:
        status = int(getattr(self._library, function)(*arguments))
        if status:
            words = c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(words))
            reason = (words.value or b"unknown error").decode(errors="replace")
            raise DeviceError(
                "NVIDIA GPU", f"refused {function.partition('_v')[0]} (CUDA error {status}: {reason})", _NO_GPU
            )

    def _attribute(self, number: int) -> int:
        value = c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
        return value.value

    def _driver(self) -> str:
        """Return the driver's version; where only the CUDA version it supports is told, that."""
        with contextlib.suppress(OSError, IndexError):
            line = Path("/proc/driver/nvidia/version").read_text(encoding="ascii", errors="replace").splitlines()[0]
            numbers = [word for word in line.split() if word[:1].isdigit() and "." in word]
            if numbers:
                return numbers[0]
        version = c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"


def _load() -> Any:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        fact = f"cannot be reached: {name}, which comes with NVIDIA's driver, is not here"
        raise DeviceError("NVIDIA GPU", fact, _NO_GPU) from error

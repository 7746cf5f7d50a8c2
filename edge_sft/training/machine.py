"""What the training machine offers and what a training used of it; and glibc told to keep what it has."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch

from edge_sft.errors import DeviceError


@dataclass(frozen=True)
class Usage:
    """Seconds used so far, over all resumed parts of a training."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


class Meter:
    """Measures one process's share of a training; ``before`` is what earlier, killed processes had used."""

    def __init__(self, before: Usage) -> None:
        self._before = before
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def usage(self) -> Usage:
        """Return the sum of before and now."""
        return Usage(
            self._before.wall_s + time.monotonic() - self._wall, self._before.cpu_s + time.process_time() - self._cpu
        )


def choose_device(wanted: str) -> torch.device:
    """Return the device to train on.

    Raises:
        DeviceError: CUDA was asked for and is not usable.
    """
    usable = torch.cuda.is_available()
    if wanted == "cuda" and not usable:
        raise DeviceError("train.device", 'is "cuda", and torch sees no usable GPU', 'Set it to "auto" or "cpu".')
    return torch.device("cuda" if usable and wanted != "cpu" else "cpu")


def keep_freed_memory() -> bool:
    """Tell glibc to reuse freed blocks instead of handing them back to the kernel after every layer.

    Measured here: 1.5 × on a fine-tuning step at 128 and 224 px (page faults were a third of it). Elsewhere
    than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_max = -1, -4  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(mmap_max, 0) and libc.mallopt(trim_threshold, 2**31 - 1))


def facts(device: torch.device) -> dict[str, Any]:
    """Return versions, threads, peak memory and GPU as JSON values."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "peak_memory_mb": round(_peak_bytes() / 2**20),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["gpu_peak_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return found


def memory_bytes() -> int:
    """Return the machine's RAM in bytes."""
    import psutil

    return int(psutil.virtual_memory().total)


def _peak_bytes() -> int:
    import psutil

    peak_wset = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if peak_wset is not None:  # Windows
        return int(peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)

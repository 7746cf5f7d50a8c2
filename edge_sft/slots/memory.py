"""Resident memory of this process, without a dependency."""

from __future__ import annotations

import sys
from pathlib import Path

_MIB = 1024 * 1024


def resident_mb(pid: int | None = None) -> float | None:
    """Return the resident memory of a process (this one by default) in MiB, or None where it cannot be told.

    Linux tells it of any process; Windows only of this one; macOS tells nothing cheaply.
    """
    system: str = sys.platform  # typed so that a checker on one system looks at the code of all
    if system == "linux":
        return _linux_mb("self" if pid is None else str(pid))
    if system == "win32" and pid is None:
        return _windows_mb()
    return None


def _linux_mb(process: str) -> float | None:
    import resource

    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return None  # it ended, or /proc is hidden
    return pages * resource.getpagesize() / _MIB


def _windows_mb() -> float | None:
    import ctypes

    class Counters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of psapi.h."""

        _fields_ = [
            ("size", ctypes.c_uint32),
            ("page_faults", ctypes.c_uint32),
            *((name, ctypes.c_size_t) for name in ("peak", "working_set", "a", "b", "c", "d", "pagefile", "e")),
        ]

    counters = Counters()
    counters.size = ctypes.sizeof(counters)
    windows = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    windows.GetCurrentProcess.restype = ctypes.c_void_p
    ask = windows.K32GetProcessMemoryInfo
    ask.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32]
    if not ask(windows.GetCurrentProcess(), ctypes.byref(counters), counters.size):
        return None
    return float(counters.working_set) / _MIB

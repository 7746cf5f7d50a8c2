"""Whether an engine's library loads here: tried in a process of its own, which may crash or hang."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from edge_sft.machine.asking import Told, run_python
from edge_sft.machine.facts import Library
from edge_sft.profile import DeviceProfile

LIMIT_S: Final = 30.0  # the libraries have up to 2 GB; from an SD card they take their time

_BY_NAME = "import {0}; print({0}.__version__)"
# `get_available_providers()` names CUDA even where it cannot load: only loading tells, and says which file is missing.
_CUDA = """
import ctypes, os, sys
import onnxruntime as ort
if "CUDAExecutionProvider" not in ort.get_available_providers():
    sys.exit("this build of ONNX Runtime has no CUDA: it takes onnxruntime-gpu")
if hasattr(ort, "preload_dlls"):
    ort.preload_dlls()
start, end = ("", ".dll") if os.name == "nt" else ("lib", ".so")
folder = os.path.join(os.path.dirname(ort.__file__), "capi")
for name in ("shared", "cuda"):
    ctypes.CDLL(os.path.join(folder, f"{start}onnxruntime_providers_{name}{end}"), ctypes.RTLD_GLOBAL)
print(ort.__version__)
"""
PROGRAMS: Final[dict[str, str]] = {
    "tensorrt": _BY_NAME.format("tensorrt"),
    "tensorrt_rtx": _BY_NAME.format("tensorrt_rtx"),
    "onnxruntime-cuda": _CUDA,
}
REMEDIES: Final[dict[str, str]] = {
    "tensorrt": "On a Jetson: apt install tensorrt, a venv with --system-site-packages; else: pip install tensorrt",
    "tensorrt_rtx": "pip install 'edge-sft[rtx]'",
    "onnxruntime-cuda": "pip uninstall onnxruntime; pip install 'edge-sft[gpu]'; CUDA and cuDNN: see edge-sft doctor",
}


def needed(profile: DeviceProfile) -> str:
    """Return which library a profile's engine needs; empty for the plain ONNX Runtime, which every device has."""
    if profile.engine == "onnxruntime":
        return "onnxruntime-cuda" if profile.provider == "cuda" else ""
    return profile.engine


def load_all() -> dict[str, Library]:
    """Try them all at once."""
    with ThreadPoolExecutor(len(PROGRAMS)) as pool:
        told = pool.map(lambda program: run_python(program, limit_s=LIMIT_S), PROGRAMS.values())
        return dict(zip(PROGRAMS, map(library, told), strict=True))


def library(told: Told | None) -> Library:
    """Judge what such a process said."""
    if told is None:
        return Library(problem="Python could not be started to try it")
    if told.status == 0:
        return Library(version=told.out.strip().splitlines()[-1] if told.out.strip() else "")
    if told.status is None or told.status < 0:
        return Library(problem="crashed while loading" if told.status else told.err)
    return Library(problem=told.last.removeprefix("ModuleNotFoundError: ").removeprefix("ImportError: "))

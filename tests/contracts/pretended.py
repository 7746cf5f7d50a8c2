"""NVIDIA's driver and library without NVIDIA: compiled and loaded for tests of what is around them."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent / "nvidia"


def compiled(folder: Path) -> Path:
    """Compile the pretended driver; skips where there is no C compiler."""
    library = folder / "libcuda.so.1"
    if not library.exists():
        gcc = shutil.which("gcc") or shutil.which("cc")
        if gcc is None or sys.platform != "linux":
            pytest.skip("no C compiler: that engines are built, cached and run around NVIDIA's library is not proved")
        subprocess.run([gcc, "-shared", "-fPIC", "-O1", "-w", "-o", library, HERE / "libcuda.c"], check=True)
    return library


def environment(library: Path) -> dict[str, str]:
    """Return what a child process needs to find both."""
    return {"LD_LIBRARY_PATH": str(library.parent), "PYTHONPATH": str(HERE), "FAKE_CUDA": str(library)}


def loaded(library: Path) -> tuple[ModuleType, ctypes.CDLL]:
    """Return the pretended `tensorrt` and driver, once a process."""
    key = "edge_sft_tests_tensorrt"
    if key not in sys.modules:
        os.environ["FAKE_CUDA"] = str(library)
        spec = spec_from_file_location(key, HERE / "tensorrt.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[key] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
        del os.environ["FAKE_CUDA"]
    module = sys.modules[key]
    return module, module._CUDA

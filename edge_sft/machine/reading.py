"""Reading the facts of this machine: files of /proc and /sys, nvidia-smi, the driver. Missing ones stay empty."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Final

from edge_sft.machine import facts as parse
from edge_sft.machine.asking import Told, read, run, run_python
from edge_sft.machine.facts import Gpu, MachineFacts
from edge_sft.machine.jetson import jetpack_version, jetson_linux
from edge_sft.machine.libraries import load_all
from edge_sft.profile import architecture

GPU_LIMIT_S: Final = 10.0  # without its persistence daemon a driver wakes eight GPUs for seconds
_QUERY = "--query-gpu=name,compute_cap,memory.total,driver_version"
_DRIVER = """
from edge_sft.engines.nvidia.cuda import Driver
gpu = Driver().gpu()
print(gpu.name, gpu.compute_capability, gpu.memory_mb, gpu.driver, sep=",")
"""
_SIGNS = ("dev/nvidiactl", "dev/nvhost-gpu", "dev/nvgpu", "dev/nvmap", "proc/driver/nvidia/version", "dev/dxg")


def look(*, with_libraries: bool = True, root: Path = Path("/")) -> MachineFacts:
    """Return the facts of this machine; ``root`` is where its files lie."""
    name, flags = parse.cpu(read(root / "proc/cpuinfo") or "")
    memory = parse.memory_mb(read(root / "proc/meminfo") or "")
    linux = jetson_linux(read(root / "etc/nv_tegra_release") or "")
    model = parse.device_tree(read(root / "proc/device-tree/model") or "")
    found, problem = look_at_gpus(root)
    return MachineFacts(
        architecture=architecture(platform.machine()),
        memory_mb=memory,
        cpu=name or platform.processor(),
        cpu_flags=flags,
        board=model[0] if model else "",
        compatible=parse.device_tree(read(root / "proc/device-tree/compatible") or ""),
        jetson_linux=linux,
        jetpack=jetpack_version(linux),
        gpus=found,
        gpu_problem=problem,
        libraries=load_all() if found and with_libraries else {},
    )


def look_at_gpus(root: Path = Path("/")) -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs that can be used, and why none although there are signs of one."""
    told = run("nvidia-smi", _QUERY, "--format=csv,noheader,nounits", limit_s=GPU_LIMIT_S)
    if told is None and not any((root / sign).exists() for sign in _SIGNS) and sys.platform != "win32":
        return (), ""  # nothing of NVIDIA here
    found = parse.gpus(told.out) if told is not None and told.good else ()
    if found and all(gpu.compute_capability for gpu in found):
        return found, ""
    asked = run_python(_DRIVER, limit_s=GPU_LIMIT_S)
    return from_driver(told, asked)


def from_driver(smi: Told | None, asked: Told | None) -> tuple[tuple[Gpu, ...], str]:
    """Judge what the driver's own library says where nvidia-smi is missing or says too little."""
    found = parse.gpus(asked.out) if asked is not None and asked.good else ()
    if found:
        return found, ""
    if smi is not None and not smi.good:
        return (), f"nvidia-smi: {smi.last if smi.status is not None else smi.err}"
    if smi is None and sys.platform == "win32":
        return (), ""
    return (), asked.last if asked is not None else "the driver could not be asked"

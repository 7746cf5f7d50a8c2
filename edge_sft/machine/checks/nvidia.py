"""NVIDIA's driver, CUDA, cuDNN: what goes together."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from edge_sft.machine.facts import Gpu, Library
from edge_sft.machine.finding import Finding

# CUDA major: oldest driver. https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
DRIVERS: Final[dict[int, int]] = {11: 450, 12: 525, 13: 580}
# onnxruntime-gpu on PyPI from this version on: CUDA and cuDNN majors that it is built for.
# 1.19: onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider; 1.27: microsoft/onnxruntime issue 29767.
ONNX_RUNTIME: Final[dict[tuple[int, int], tuple[int, int]]] = {(1, 19): (12, 9), (1, 27): (13, 9)}
_SIGNS: Final[dict[str, str]] = {
    "version mismatch": "The driver was updated while it ran: restart the machine.",
    "couldn't communicate": "Its kernel module is not loaded, often after a kernel update: install the driver again "
    "(apt install --reinstall nvidia-dkms-580, or your version), then restart.",
    "Insufficient Permissions": "Add the user to the groups video and render, then log in again.",
    "No devices were found": "The driver sees no card: look at its power cable and `lspci | grep -i nvidia`.",
    "did not answer": "The card hangs: restart the machine; if it comes again, look at `dmesg | grep -i xid`.",
    "libcuda.so.1": "Install NVIDIA's driver; in a container start it with --gpus all (Jetson: --runtime nvidia).",
}


def driver(gpus: Collection[Gpu], problem: str) -> Finding | None:
    """Judge whether the GPU answers; None where there is no sign of one."""
    if problem:
        remedy = next((words for sign, words in _SIGNS.items() if sign in problem), "Look at: nvidia-smi")
        return Finding("bad", "NVIDIA GPU", problem, remedy)
    if not gpus:
        return None
    told = [
        f"{gpu.name}, compute capability {gpu.compute_capability}, "
        + (f"{gpu.memory_mb / 1024:.0f} GB" if gpu.memory_mb else "memory shared with the processor")
        for gpu in gpus
    ]
    version = next((gpu.driver for gpu in gpus if gpu.driver), "")
    return Finding("good", "NVIDIA GPU", f"{'; '.join(told)}; driver {version or 'of an unknown version'}")


def cuda_of_onnx_runtime(version: str, package_info: str = "") -> tuple[int, int] | None:
    """Return the CUDA and cuDNN majors that an onnxruntime-gpu needs.

    Args:
        version: Of the wheel.
        package_info: Its ``capi/build_and_package_info.py``, which names the CUDA of wheels that are not PyPI's too.
    """
    number = re.match(r"(\d+)\.(\d+)", version)
    if number is None:
        return None
    fitting = [start for start in ONNX_RUNTIME if start <= (int(number[1]), int(number[2]))]
    needs = ONNX_RUNTIME[max(fitting)] if fitting else None
    told = re.search(r"cuda_version\s*=\s*['\"](\d+)", package_info)
    if told:
        return int(told[1]), needs[1] if needs else 8
    return needs


def enough_driver(version: str, cuda: int) -> bool | None:
    """Tell whether a driver serves a CUDA major; None where that cannot be said."""
    major = version.partition(".")[0]
    return int(major) >= DRIVERS[cuda] if major.isdigit() and cuda in DRIVERS else None


def cuda(
    versions: Mapping[str, str],
    package_info: str,
    gpus: Collection[Gpu],
    loads: Library | None,
    sonames: Collection[str],
) -> Finding | None:
    """Judge what ONNX Runtime needs of CUDA and cuDNN; None where its GPU wheel is not installed.

    Args:
        versions: Of the installed wheels.
        package_info: See `cuda_of_onnx_runtime`.
        gpus: Those that answer.
        loads: What came of loading it; None = it was not tried.
        sonames: Libraries that the system or a wheel brings, for example ``libcudnn.so.9``.
    """
    version = versions.get("onnxruntime-gpu")
    if not version:
        return None
    needs = cuda_of_onnx_runtime(version, package_info)
    if needs is None:
        return Finding(
            "note", "CUDA", f"onnxruntime-gpu {version} is too old to know", "pip install -U 'edge-sft[gpu]'"
        )
    major, cudnn = needs
    asks = f"onnxruntime-gpu {version} needs CUDA {major} and cuDNN {cudnn}"
    if not gpus:
        return Finding(
            "note", "CUDA", f"{asks}; no NVIDIA GPU answers here", "Without one: pip install 'edge-sft[cpu]'"
        )
    number = next((gpu.driver for gpu in gpus if gpu.driver), "")
    if enough_driver(number, major) is False:
        remedy = f"Update the driver to {DRIVERS[major]} or newer"
        remedy += ", or install a wheel for CUDA 12: pip install 'onnxruntime-gpu<1.27'" if major == 13 else ""
        if all(gpu.memory_mb is None for gpu in gpus):
            remedy = "A Jetson's driver is JetPack's: pip install 'edge-sft[cpu]' and leave the GPU to TensorRT"
        return Finding("bad", "CUDA", f"{asks}, the driver {number} is older than CUDA {major}", f"{remedy}.")
    wanted = (f"libcudart.so.{major}", f"libcublas.so.{major}", f"libcudnn.so.{cudnn}")
    missing = [name for name in wanted if name not in sonames]
    if loads is not None and not loads.problem:
        return Finding("good", "CUDA", f"{asks}; both load")
    if missing:
        remedy = "pip install 'onnxruntime-gpu[cuda,cudnn]' (Jetson: apt install nvidia-jetpack)"
        return Finding("bad", "CUDA", f"{asks}; {', '.join(missing)} cannot be found", remedy)
    why = f"; it does not load: {loads.problem}" if loads is not None else ""
    return Finding("bad" if why else "good", "CUDA", f"{asks}{why}", "See the line above." if why else "")


def sonames(ldconfig: str) -> set[str]:
    """Return the library names in what ``ldconfig -p`` says."""
    return set(re.findall(r"(?m)^\s*(\S+\.so[.\d]*) \(", ldconfig))


def rtx(versions: Mapping[str, str], gpus: Collection[Gpu], loads: Library | None) -> Finding | None:
    """Judge TensorRT-RTX; None where it is not installed."""
    name = min((one for one in versions if one.startswith("tensorrt-rtx")), default=None)
    if name is None:
        return None
    fact = f"{name} {versions[name]}"
    found = re.search(r"cu(\d+)", name)
    number = next((gpu.driver for gpu in gpus if gpu.driver), "")
    if not gpus:
        return Finding("good", "TensorRT-RTX", f"{fact}; without a GPU it builds engines and runs none")
    if found and enough_driver(number, int(found[1])) is False:
        remedy = f"Update the driver to {DRIVERS[int(found[1])]} or newer."
        return Finding("bad", "TensorRT-RTX", f"{fact} needs CUDA {found[1]}, the driver {number} is older", remedy)
    if loads is not None and loads.problem:
        return Finding("bad", "TensorRT-RTX", f"{fact} does not load: {loads.problem}", "pip install 'edge-sft[rtx]'")
    return Finding("good", "TensorRT-RTX", fact)

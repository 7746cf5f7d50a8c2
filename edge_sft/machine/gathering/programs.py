"""Python's packages, ONNX Runtime, OpenCV, and NVIDIA's libraries."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from edge_sft.machine import reading
from edge_sft.machine.asking import read, run, run_python
from edge_sft.machine.checks import jetpack, nvidia, software, tensorrt
from edge_sft.machine.finding import Finding
from edge_sft.machine.gathering.place import Place, there
from edge_sft.machine.jetson import jetpack as jetpack_of
from edge_sft.machine.jetson import jetson_linux

_IMPORT_LIMIT_S = 30.0  # measured: 10 s on an emulated processor
_ORT = "import onnxruntime; print('|'.join(onnxruntime.get_available_providers()))"
_CV2 = "import cv2; print(cv2.__version__); print(cv2.getBuildInformation())"


def of_software(place: Place) -> list[Finding]:
    """Python, ONNX Runtime, OpenCV, PyTorch; the libraries are loaded in processes of their own."""
    import edge_sft

    versions = installed()
    told = run_python(_ORT, limit_s=_IMPORT_LIMIT_S) if any(versions.get(one) for one in software.RUNTIMES) else None
    providers = tuple(told.out.split()[-1].split("|")) if told is not None and told.good and told.out.strip() else ()
    runtime = software.onnx_runtime(versions, providers, "" if told is None or told.good else told.last)
    seen = run_python(_CV2, limit_s=_IMPORT_LIMIT_S)
    version, _, build = seen.out.partition("\n") if seen is not None and seen.good else ("", "", "")
    problem = "" if seen is None or seen.good else seen.last
    return [
        software.python(sys.version_info[:3], edge_sft.__version__, sys.platform),
        runtime,
        software.opencv(version, problem, build),
        software.training(versions.get("torch")),
    ]


def of_nvidia(place: Place) -> list[Finding]:
    """JetPack, driver, CUDA, TensorRT."""
    release = read(place.files / "etc/nv_tegra_release") or ""
    facts = reading.look(root=place.files)
    versions = installed()
    loads = facts.libraries
    pack = jetpack_of(jetson_linux(release))
    dpkg = run("dpkg-query", "-W", "-f", "${Package} ${Version}\n", "libnvinfer*")
    return there(
        jetpack.release(release),
        nvidia.driver(facts.gpus, facts.gpu_problem),
        nvidia.cuda(versions, _package_info(), facts.gpus, loads.get("onnxruntime-cuda"), _sonames()),
        tensorrt.tensorrt(
            loads.get("tensorrt"), dpkg.out if dpkg else "", versions, pack, facts.gpus, sys.version_info[:2]
        ),
        nvidia.rtx(versions, facts.gpus, loads.get("tensorrt_rtx")),
    )


def installed() -> dict[str, str]:
    """Return the installed distributions, named as ``tensorrt-cu12``, and their versions."""
    named = ((one.metadata["Name"], one.version) for one in metadata.distributions())
    return {str(name).lower().replace("_", "-"): version for name, version in named if name}


def _package_info() -> str:
    try:
        files: Iterable[metadata.PackagePath] = metadata.distribution("onnxruntime-gpu").files or ()
    except metadata.PackageNotFoundError:
        return ""
    path = next((file.locate() for file in files if file.name == "build_and_package_info.py"), None)
    return read(Path(str(path))) or "" if path is not None else ""


def _sonames() -> set[str]:
    """Return the libraries of the system and those that NVIDIA's wheels brought."""
    told = run("ldconfig", "-p") or run("/sbin/ldconfig", "-p")
    found = nvidia.sonames(told.out if told else "")
    for place in {Path(path) for path in sys.path if path}:
        with contextlib.suppress(OSError):
            found.update(path.name for path in place.glob("nvidia/**/lib/*.so*"))
    return found

"""TensorRT: what is installed, what this Python sees of it, and what the JetPack or driver goes with."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from edge_sft.machine.checks.nvidia import DRIVERS, enough_driver
from edge_sft.machine.facts import Gpu, Library
from edge_sft.machine.finding import Finding
from edge_sft.machine.jetson import JetPack

OLDEST: Final = (10, 3)
_APT = "sudo apt install tensorrt (on a Jetson it is part of nvidia-jetpack)"
_WHEEL = re.compile(r"tensorrt(-(cu\d+|lean|dispatch|libs|bindings).*)?")
_SEES = "Make the environment with: python3 -m venv --system-site-packages (and apt install python3-libnvinfer)"


def packages(dpkg: str) -> tuple[str, str]:
    """Return TensorRT's version and CUDA of the system's packages, empty where there are none.

    Args:
        dpkg: What ``dpkg-query -W -f '${Package} ${Version}\\n' 'libnvinfer*'`` says, for example
            ``libnvinfer10 10.3.0.30-1+cuda12.5``.
    """
    found = re.search(r"(?m)^libnvinfer\d+ (\d[\d.]*)-\S*?\+cuda([\d.]+)", dpkg)
    return (found[1], found[2]) if found else ("", "")


def tensorrt(
    loads: Library | None,
    dpkg: str,
    versions: Mapping[str, str],
    jetpack: JetPack | None,
    gpus: Collection[Gpu],
    python: tuple[int, ...],
) -> Finding | None:
    """Judge TensorRT; None where neither a package nor a wheel of it is here and no Jetson asks for one.

    Args:
        loads: What came of importing it; None = it was not tried.
        dpkg: See `packages`.
        versions: Of the installed wheels.
        jetpack: On a Jetson what it came with.
        gpus: Those that answer.
        python: Version of this interpreter.
    """
    system, cuda = packages(dpkg)
    wheels = sorted(name for name in versions if _WHEEL.fullmatch(name))
    if jetpack is not None:
        return _on_jetson(loads, system, cuda, [name for name in wheels if name != "tensorrt"], jetpack, python)
    if not system and not wheels:
        return None
    name = f"TensorRT {system}" if system else f"{wheels[-1]} {versions[wheels[-1]]}"
    if not gpus:
        return Finding("note", "TensorRT", f"{name}; no NVIDIA GPU answers here", "It is used on GPUs only.")
    if loads is not None and loads.problem:
        return Finding("bad", "TensorRT", f"{name} does not load: {loads.problem}", _SEES if system else _PIP)
    said = loads.version if loads is not None else system
    if said and _number(said) < OLDEST:
        return Finding("bad", "TensorRT", f"{said} is too old", "Install TensorRT 10.3 or newer.")
    for wheel in wheels:
        found = re.search(r"cu(\d+)", wheel)
        driver = next((gpu.driver for gpu in gpus if gpu.driver), "")
        if found and enough_driver(driver, int(found[1])) is False:
            remedy = f"Update the driver to {DRIVERS[int(found[1])]} or newer, or install tensorrt-cu12."
            return Finding("bad", "TensorRT", f"{wheel} is for CUDA {found[1]}, the driver {driver} is older", remedy)
    return Finding("good", "TensorRT", f"{said} loads" if loads is not None else name)


_PIP = "pip install tensorrt-cu12 (driver 525 or newer) or tensorrt-cu13 (580 or newer)"


def _on_jetson(
    loads: Library | None, system: str, cuda: str, wheels: list[str], jetpack: JetPack, python: tuple[int, ...]
) -> Finding:
    if wheels:
        fact = f"{', '.join(wheels)} came by pip; those wheels are for cards, on a Jetson TensorRT is the system's"
        return Finding("bad", "TensorRT", fact, f"pip uninstall -y {' '.join(wheels)}; {_APT}")
    if not system:
        if loads is not None and not loads.problem:  # a container, whose packages are not Debian's
            return Finding("good", "TensorRT", f"{loads.version} loads")
        return Finding("bad", "TensorRT", f"is not installed; JetPack {jetpack.version} has {jetpack.tensorrt}", _APT)
    about = f"{system} for CUDA {cuda}"
    if _number(system) < OLDEST:
        return Finding("bad", "TensorRT", f"{about} is too old: 10.3 is needed", "Flash JetPack 6.2 or newer.")
    if cuda.partition(".")[0] != jetpack.cuda.partition(".")[0]:
        fact = f"{about}, but JetPack {jetpack.version} has CUDA {jetpack.cuda}: another release's package"
        return Finding("bad", "TensorRT", fact, f"Install JetPack's own: {_APT}")
    if loads is not None and loads.problem:
        own = f"{python[0]}.{python[1]}"
        if own != jetpack.python:
            fact = f"{about} is made for Python {jetpack.python}, this is {own}"
            return Finding("bad", "TensorRT", fact, f"Use the system's python3. {_SEES}")
        return Finding("bad", "TensorRT", f"{about} is installed, but not for this Python: {loads.problem}", _SEES)
    if _number(system) != _number(jetpack.tensorrt):
        fact = f"{about}; JetPack {jetpack.version} came with {jetpack.tensorrt}"
        return Finding("note", "TensorRT", fact, "Fine if you meant it; engines are built again for it.")
    return Finding("good", "TensorRT", f"{about}, as JetPack {jetpack.version} has it")


def _number(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)

"""What a machine is, and how its files and programs say so. Pure: texts in, facts out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU. ``memory_mb`` is None where it has none of its own, as on Jetson."""

    name: str
    compute_capability: str
    memory_mb: int | None
    driver: str = ""


@dataclass(frozen=True)
class Library:
    """An engine's library as it is on this machine; ``problem`` says why it cannot be used, empty = it can."""

    version: str = ""
    problem: str = ""


@dataclass(frozen=True)
class MachineFacts:
    """A machine.

    Attributes:
        architecture: ``x86_64``, ``aarch64``, or what the system says.
        memory_mb: All of it.
        cpu: The processor's name.
        cpu_flags: Of /proc/cpuinfo.
        board: /proc/device-tree/model.
        compatible: /proc/device-tree/compatible.
        jetson_linux: For example 36.4.3; empty on other machines.
        jetpack: For example 6.2.
        gpus: Those that the driver gives us.
        gpu_problem: Why there is none although one seems to be built in.
        libraries: By engine, those that were looked for: ``tensorrt``, ``tensorrt_rtx``, ``onnxruntime-cuda``.
    """

    architecture: str
    memory_mb: int = 0
    cpu: str = ""
    cpu_flags: frozenset[str] = frozenset()
    board: str = ""
    compatible: tuple[str, ...] = ()
    jetson_linux: str = ""
    jetpack: str = ""
    gpus: tuple[Gpu, ...] = ()
    gpu_problem: str = ""
    libraries: Mapping[str, Library] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The machine in one line."""
        first = self.board or self.cpu or self.architecture
        parts = [first, f"{self.memory_mb / 1024:.1f} GB" if self.memory_mb else ""]
        parts += [f"JetPack {self.jetpack} (Jetson Linux {self.jetson_linux})" if self.jetson_linux else ""]
        parts += [f"{gpu.name} (compute capability {gpu.compute_capability or 'unknown'})" for gpu in self.gpus]
        return ", ".join(part for part in parts if part)


def cpu(cpuinfo: str) -> tuple[str, frozenset[str]]:
    """Return the name and flags of the first processor in /proc/cpuinfo; x86 and Arm write them differently."""
    told: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            told.setdefault(key.strip(), value.strip())
    flags = told.get("flags") or told.get("Features") or ""
    return told.get("model name", ""), frozenset(flags.split())


def memory_mb(meminfo: str, key: str = "MemTotal") -> int:
    """Return a value of /proc/meminfo in MiB; 0 where it is not there."""
    found = re.search(rf"(?m)^{key}:\s+(\d+) kB", meminfo)
    return int(found[1]) // 1024 if found else 0


def device_tree(text: str) -> tuple[str, ...]:
    """Return the strings of a device-tree property, which end in NUL bytes."""
    return tuple(part.strip() for part in text.split("\0") if part.strip())


def gpus(table: str) -> tuple[Gpu, ...]:
    """Read ``nvidia-smi --query-gpu=name,compute_cap,memory.total,driver_version --format=csv,noheader,nounits``.

    A Jetson's answers ``[N/A]`` or ``Not Supported`` for what a card would have.
    """
    found = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != 4 or not cells[0]:
            continue
        name, capability, memory, driver = cells
        capability = capability if re.fullmatch(r"\d+\.\d+", capability) else ""
        version = driver if re.fullmatch(r"[\d.]+", driver) else ""
        found.append(Gpu(name, capability, int(memory) if memory.isdigit() else None, version))
    return tuple(found)

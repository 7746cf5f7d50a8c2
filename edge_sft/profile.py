"""DeviceProfile: what a target offers and the budgets it sets (devices/*.toml). Data, no code."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edge_sft import strict_toml
from edge_sft.errors import UserError

VariantName = Literal["fp32", "fp16", "int8-trt", "int8-cpu"]
EngineName = Literal["onnxruntime", "tensorrt", "tensorrt_rtx"]


class Budgets(BaseModel):
    """What a model may cost on this device; the device gates on them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_p95_ms: float = Field(gt=0, description="preprocess + inference + decision of one sample")
    memory_mb: float = Field(gt=0, description="growth by loading one model: of resident memory, and of a GPU's memory")


class Accelerator(BaseModel):
    """The GPU that a target has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["nvidia"] = "nvidia"
    compute_capabilities: tuple[str, ...] = Field(min_length=1, description="for example 8.7; any of them")
    memory_mb: int = Field(gt=0, description="at least; as it is sold, of which a device shows a little less")
    shared_memory: bool = Field(default=False, description="one memory for processor and GPU, as on Jetson")


class Building(BaseModel):
    """How engines are built of a bundle's variants, on the device or ahead of time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_max: int | None = Field(
        default=None, ge=1, description="largest batch an engine must take; left out = 1 picture, 8 tiles, 64 windows"
    )
    workspace_mb: int = Field(default=0, ge=0, description="memory that a build may use; 0 = the library's own limit")
    timeout_s: float = Field(default=1800.0, gt=0, description="after which a build of one variant is given up")
    cuda_graphs: bool = Field(default=False, description="replay a recorded launch instead of launching each kernel")


class PowerMode(BaseModel):
    """One setting of a device's power; see what is set with ``nvpmodel -q``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="as the device calls it")
    watts: float | None = Field(default=None, gt=0, description="left out = no limit but what the board and heat set")
    command: str = Field(default="", description="what sets it")


class CameraPath(BaseModel):
    """One way a picture comes in. ``device`` is what agent.toml takes; ``pipeline`` is GStreamer's, for OpenCV."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["csi", "usb", "rtsp", "gige"]
    device: int | str | None = None
    pipeline: str = ""
    note: str = ""


class Install(BaseModel):
    """How edge-sft comes onto such a device.

    Attributes:
        python: The system's; empty = any that edge-sft takes.
        extras: Of edge-sft; empty = cpu or gpu, by the provider, and vision.
        wheels: Newest wheel platform that the device takes, for example ``manylinux_2_35_aarch64``.
        system_packages: Debian packages to be there first.
        tensorrt: Whose TensorRT: the system's (Jetson: always), pip's, or none.
        notes: What else to know, in lines.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    python: str = Field(default="", pattern=r"^(3\.\d+)?$")
    extras: tuple[str, ...] = ()
    wheels: str = Field(default="", pattern=r"^(manylinux_2_\d+_(x86_64|aarch64))?$")
    system_packages: tuple[str, ...] = ()
    tensorrt: Literal["none", "system", "pip"] = "none"
    notes: tuple[str, ...] = ()

    @property
    def platforms(self) -> tuple[str, ...]:
        """Every wheel platform tag that the device takes, newest first: pip does not think of the older ones."""
        if not self.wheels:
            return ()
        minor, machine = re.fullmatch(r"manylinux_2_(\d+)_(.+)", self.wheels).groups()  # type: ignore[union-attr]
        tags = [f"manylinux_2_{number}_{machine}" for number in range(int(minor), 4, -1)]
        older = ["manylinux2014", *(["manylinux2010", "manylinux1"] if machine == "x86_64" else [])]
        return (*tags, *(f"{tag}_{machine}" for tag in older), f"linux_{machine}")


class Hardware(BaseModel):
    """By what `edge-sft devices match` knows such a device, beside its architecture and accelerator.

    Attributes:
        board: Any of these stands in /proc/device-tree/model or is part of /proc/device-tree/compatible.
        jetpack: Versions of JetPack, each a beginning: ``6`` takes 6.0 to 6.2.
        gpu: Any of these words stands in the GPU's name.
        cpu_flags: Each is among the flags of /proc/cpuinfo; ``a|b`` = either.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    board: tuple[str, ...] = ()
    jetpack: tuple[str, ...] = ()
    gpu: tuple[str, ...] = ()
    cpu_flags: tuple[str, ...] = ()


class DeviceProfile(BaseModel):
    """What a target offers. ``variants`` are the permitted ones; the device measures and picks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    architecture: Literal["x86_64", "aarch64", "any"] = "any"
    engine: EngineName = "onnxruntime"
    provider: Literal["cpu", "cuda"] = "cpu"
    variants: tuple[VariantName, ...] = Field(min_length=1)
    threads: int = Field(default=0, ge=0, description="intra-op threads; 0 = all cores but one, at least one")
    budgets: Budgets
    accelerator: Accelerator | None = None
    building: Building = Building()
    fall_back: bool = Field(
        default=False, description="whether a variant whose engine cannot be built is passed over for the next one"
    )
    power_modes: tuple[PowerMode, ...] = ()
    cameras: tuple[CameraPath, ...] = ()
    install: Install = Install()
    match: Hardware = Hardware()


def data_directory(kind: Literal["devices", "federation"]) -> Path:
    """Return the folder of shipped data: inside the wheel, or at the top of a checkout."""
    packaged = Path(__file__).parent / "_data" / kind
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / kind


def shipped() -> dict[str, Path]:
    """Return the shipped profiles' files by name."""
    return {path.stem: path for path in sorted(data_directory("devices").glob("*.toml"))}


def usable_threads(profile: DeviceProfile) -> int:
    """Return the number of intra-op threads to use: the profile's, or all usable cores but one, at least one."""
    if profile.threads:
        return profile.threads
    allowed = getattr(os, "sched_getaffinity", None)  # honours taskset and containers; Linux only
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return max(1, cores - 1)


def architecture(machine: str) -> str:
    """Translate what the operating system calls its processor (`platform.machine()`) to a profile's word."""
    name = machine.lower()
    return {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}.get(name, name)


def check_runs_on(profile: DeviceProfile, machine: str) -> None:
    """Refuse a profile made for another processor. Raises UserError."""
    if profile.architecture not in ("any", architecture(machine)):
        raise UserError(
            f"device profile '{profile.name}'",
            f"is for {profile.architecture}, this machine is {architecture(machine)}",
            "Choose another with --profile, or leave it at auto.",
        )


def load(name_or_path: str) -> DeviceProfile:
    """Load a shipped profile by name or any profile by path.

    Raises:
        UserError: No such profile, or the file has problems.
    """
    known = shipped()
    if name_or_path in known:
        return strict_toml.load(known[name_or_path], DeviceProfile)
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return strict_toml.load(path, DeviceProfile)
    raise UserError(
        f"device profile '{name_or_path}'", "is not known", f"Known: {', '.join(known)}; or give a .toml file."
    )

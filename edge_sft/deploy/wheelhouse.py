"""A wheelhouse: every wheel that a device needs, for its Python and its platform, with the SHA-256 of each."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_sft.errors import DataError, UserError
from edge_sft.machine.libraries import needed
from edge_sft.profile import DeviceProfile

MANIFEST: Final = "wheelhouse.json"
REQUIREMENTS: Final = "requirements.txt"


class WheelEntry(BaseModel):
    """One wheel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+!-]*\.whl$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(gt=0)

    @property
    def requirement(self) -> str:
        """The line of requirements.txt that takes exactly this file."""
        name, version = self.name.split("-")[:2]
        return f"{name.replace('_', '-').lower()}=={version} --hash=sha256:{self.sha256}"


class Wheelhouse(BaseModel):
    """wheelhouse.json, version 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    version: str = Field(description="of edge-sft")
    made_of: str = Field(description="SHA-256 over edge-sft's own files")
    profile: str
    python: str = Field(pattern=r"^3\.\d+$")
    machine: str
    extras: tuple[str, ...]
    system_packages: bool = Field(
        default=False, description="whether the environment sees the system's own packages (TensorRT on Jetson)"
    )
    files: tuple[WheelEntry, ...] = Field(min_length=1)

    @property
    def requirements(self) -> str:
        """The content of requirements.txt."""
        return "".join(sorted(f"{entry.requirement}\n" for entry in self.files))

    @property
    def id(self) -> str:
        """What an installation of exactly these files is called."""
        made = f"{self.requirements}{'system' if self.system_packages else ''}"
        return f"{self.version}-{hashlib.sha256(made.encode()).hexdigest()[:12]}"

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(entry.size_bytes for entry in self.files)

    @property
    def glibc(self) -> tuple[int, int]:
        """The oldest glibc on which every wheel runs; (0, 0) when none cares."""
        needed = [_glibc_of(entry.name) for entry in self.files]
        return max(needed)

    @property
    def brings(self) -> tuple[str, ...]:
        """The libraries of engines, by `machine.libraries`' names, that are there once it is installed."""
        starts = {
            "onnxruntime-cuda": ("onnxruntime_gpu-",),
            "tensorrt_rtx": ("tensorrt_rtx",),
            "tensorrt": ("tensorrt-", "tensorrt_cu"),
        }
        names = [entry.name for entry in self.files]
        found = {key for key, start in starts.items() if any(name.startswith(start) for name in names)}
        return tuple(sorted(found | ({"tensorrt"} if self.system_packages else set())))

    def check_serves(self, profile: DeviceProfile, facts: dict[str, Any]) -> None:
        """Refuse wheels that lack the engine of the device's profile. Raises UserError."""
        if not serves(self.brings, profile):
            raise lacking(profile, facts)

    def check_fits(self, facts: dict[str, Any]) -> None:
        """Refuse a device that these wheels are not for. Raises UserError."""
        python = ".".join(str(facts["python"]).split(".")[:2])
        why = ""
        if python != self.python:
            why = f"is for Python {self.python}, the device has {python}"
        elif str(facts["machine"]) != self.machine:
            why = f"is for {self.machine}, the device is {facts['machine']}"
        elif (found := _version(str(facts.get("libc", "")))) and found < self.glibc:
            why = f"needs glibc {self.glibc[0]}.{self.glibc[1]}, the device has {found[0]}.{found[1]}"
        if why:
            remedy = f"Make another: edge-sft wheelhouse --profile {self.profile} --python {python}"
            raise UserError("the wheelhouse", why, remedy)


def serves(brings: Sequence[str] | None, profile: DeviceProfile) -> bool:
    """Tell whether what is installed has the engine of a profile; None is of a version that did not write it down."""
    name = needed(profile)
    return not name or brings is None or name in brings


def lacking(profile: DeviceProfile, facts: dict[str, Any]) -> UserError:
    """Return what refuses wheels without the engine of a device's profile, naming what makes those that have it."""
    python = ".".join(str(facts["python"]).split(".")[:2])
    package = " --package tensorrt-cu13" if profile.install.tensorrt == "pip" else ""
    return UserError(
        "the wheelhouse",
        f"brings no {needed(profile)}, which the device's profile {profile.name} ({profile.title}) needs",
        f"Make one that does: edge-sft wheelhouse --profile {profile.name} --python {python}{package}; to run on the "
        "processor all the same, name its profile: edge-sft devices list",
    )


def load(folder: Path) -> Wheelhouse:
    """Read and verify a wheelhouse.

    Raises:
        UserError: There is none.
        DataError: A file is missing, damaged or too many.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise UserError(str(folder), f"is no wheelhouse (no {MANIFEST})", "Make one: edge-sft wheelhouse") from error
    try:
        house = Wheelhouse.model_validate_json(content)
    except ValidationError as error:
        raise DataError(str(folder / MANIFEST), "is not one that this version reads", "Make it again.") from error
    for entry in house.files:
        path = folder / entry.name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
            raise DataError(str(path), "is missing or not what the wheelhouse lists", "Make the wheelhouse again.")
    return house


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Yield the folder of a wheelhouse that is a folder, a .tar or a .zip. Raises UserError, DataError."""
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            _unpack(path, Path(folder))
        except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise UserError(str(path), f"cannot be read as a wheelhouse ({error})", "Give its folder.") from error
        yield Path(folder)


def pack(folder: Path, out: Path) -> None:
    """Write a wheelhouse as one file, .tar or .zip; wheels are compressed already. Raises UserError."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if out.suffix == ".tar":
        with tarfile.open(out, "w") as tar:
            for path in files:
                tar.add(path, arcname=path.name)
    else:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for path in files:
                archive.write(path, arcname=path.name)


def _unpack(path: Path, folder: Path) -> None:
    """Take files only, by their last name: nothing leaves the folder."""
    if not tarfile.is_tarfile(path):  # asked first: a tar that ends with a wheel looks like a zip, too
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    (folder / Path(info.filename).name).write_bytes(archive.read(info))
        return
    with tarfile.open(path) as tar:
        for member in tar:
            source = tar.extractfile(member) if member.isfile() else None
            if source is not None:
                (folder / Path(member.name).name).write_bytes(source.read())


def _glibc_of(name: str) -> tuple[int, int]:
    """Read a wheel's name: the oldest glibc among the platforms that it names."""
    old = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
    platforms = name.removesuffix(".whl").rsplit("-", 1)[-1].split(".")
    found = [old[tag.split("_")[0]] for tag in platforms if tag.split("_")[0] in old]
    found += [(int(m[1]), int(m[2])) for tag in platforms if (m := re.match(r"manylinux_(\d+)_(\d+)_", tag))]
    return min(found, default=(0, 0))


def _version(libc: str) -> tuple[int, int] | None:
    found = re.search(r"glibc (\d+)\.(\d+)", libc)
    return (int(found[1]), int(found[2])) if found else None

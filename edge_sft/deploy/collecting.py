"""Collecting a wheelhouse with pip, for a Python and a platform that need not be this machine's."""

from __future__ import annotations

import email
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import edge_sft
from edge_sft import durable
from edge_sft.deploy import own_wheel
from edge_sft.deploy.wheelhouse import MANIFEST, REQUIREMENTS, WheelEntry, Wheelhouse
from edge_sft.errors import NetworkError, UserError
from edge_sft.profile import DeviceProfile
from edge_sft.progress import Progress, Silent

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_GLIBC_DEFAULT = 31  # Debian 11, Ubuntu 20.04: what a device without a stated platform can be expected to have
_ROUNDS = 6


@dataclass(frozen=True)
class Target:
    """The interpreter that wheels are for.

    Attributes:
        python: For example ``3.10``.
        machine: ``x86_64`` or ``aarch64``.
        platforms: Wheel platform tags that it takes, for example ``manylinux_2_28_x86_64``.
    """

    python: str
    machine: str
    platforms: tuple[str, ...]

    @property
    def markers(self) -> dict[str, str]:
        """What environment markers of requirements are evaluated with; pip alone would take this machine's."""
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "platform_python_implementation": "CPython",
            "platform_machine": self.machine,
            "platform_system": "Linux",
            "sys_platform": "linux",
            "os_name": "posix",
            "platform_release": "",
            "platform_version": "",
        }


def manylinux(machine: str, glibc_minor: int = _GLIBC_DEFAULT) -> tuple[str, ...]:
    """Return the platform tags that a glibc 2.x takes; pip does not expand the newer ones by itself."""
    older = {"x86_64": ("manylinux2014", "manylinux2010", "manylinux1"), "aarch64": ("manylinux2014",)}
    newer = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc_minor, 4, -1)]
    return (*newer, *(f"{tag}_{machine}" for tag in older.get(machine, ())), f"linux_{machine}")


def target_of(profile: DeviceProfile, *, python: str | None = None, glibc_minor: int | None = None) -> Target:
    """Return what a profile's devices run; ``python`` and ``glibc_minor`` are those of one device at hand."""
    machine = "x86_64" if profile.architecture == "any" else profile.architecture
    told = getattr(profile, "install", None)
    stated = tuple(getattr(told, "platforms", ()) or ())
    platforms = stated if stated and glibc_minor is None else manylinux(machine, glibc_minor or _GLIBC_DEFAULT)
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Target(python or getattr(told, "python", None) or own, machine, platforms)


def sees_system(profile: DeviceProfile) -> bool:
    """Tell whether a profile's devices bring packages of their own, such as TensorRT on Jetson."""
    return getattr(getattr(profile, "install", None), "tensorrt", "none") == "system"


def extras_of(profile: DeviceProfile) -> tuple[str, ...]:
    """Return which extras of edge-sft a profile's devices install."""
    told = getattr(profile, "install", None)
    stated = tuple(getattr(told, "extras", ()) or ())
    return stated or ("cpu" if profile.provider == "cpu" else "gpu", "vision")


def collect(
    out: Path,
    target: Target,
    *,
    profile: str,
    extras: Sequence[str],
    system_packages: bool = False,
    packages: Sequence[str] = (),
    watch: Progress | None = None,
    pip_arguments: Sequence[str] = (),
) -> Wheelhouse:
    """Fill a folder with every wheel that the target needs; a folder that is there is replaced when all is well.

    Args:
        out: The folder.
        target: Whom the wheels are for.
        profile: Name of the device profile, for the record.
        extras: Extras of edge-sft.
        system_packages: Whether the environment shall see the system's own packages.
        packages: Further ones beside edge-sft, as pip takes them.
        watch: Watched by people.
        pip_arguments: For pip, for example ``--index-url``; pip's own configuration counts as well.

    Raises:
        UserError: The folder holds something else.
        NetworkError: pip finds no wheel for something; nothing is then changed.
        DeviceError: The disk refuses.
    """
    watch = watch or Silent()
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(str(out), "is there already and is no wheelhouse", "Give another folder with --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        own_place, folder = Path(scratch) / "own", Path(scratch) / "wheels"
        own_place.mkdir()
        watch.start("Making edge-sft's own wheel", 1)
        own = own_wheel.make(own_place)
        watch.advance()
        _download(own, folder, target, extras, packages, watch, pip_arguments)
        house = Wheelhouse(
            version=edge_sft.__version__,
            made_of=own_wheel.made_of(),
            profile=profile,
            python=target.python,
            machine=target.machine,
            extras=tuple(extras),
            system_packages=system_packages,
            files=tuple(_entry(path) for path in sorted(folder.glob("*.whl"))),
        )
        durable.write_text(folder / REQUIREMENTS, house.requirements)
        durable.write_text(folder / MANIFEST, house.model_dump_json(indent=2) + "\n")
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    return house


def _download(
    own: Path,
    folder: Path,
    target: Target,
    extras: Sequence[str],
    packages: Sequence[str],
    watch: Progress,
    pip_arguments: Sequence[str],
) -> None:
    """Download until nothing that the target needs is missing."""
    asked = f"edge-sft[{','.join(extras)}] @ {own.resolve().as_uri()}"
    wanted: dict[str, str] = {}
    built = own.parent / "built"
    for _ in range(_ROUNDS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        watch.start(f"Collecting wheels for Python {target.python} on {target.machine} (pip)", 1)
        try:
            _pip([asked, *packages, *wanted.values()], folder, target, ["--find-links", str(built), *pip_arguments])
        except _NoWheel as error:
            if not _build_pure(error.what, built, pip_arguments):
                raise
            continue
        shutil.copyfile(own, folder / own.name)
        watch.advance()
        missing = _missing(folder.glob("*.whl"), target, extras, packages)
        if not missing:
            return
        wanted |= missing
    raise NetworkError("the wheelhouse", f"cannot be completed: {', '.join(wanted)}", "Report this, please.")


class _NoWheel(NetworkError):
    """There is no wheel of one package; ``what`` is its requirement."""

    what = ""


def _build_pure(requirement: str, folder: Path, pip_arguments: Sequence[str]) -> bool:
    """Make a wheel of a package that comes as source only, if it is Python alone; such are NVIDIA's metapackages."""
    before = set(folder.glob("*.whl"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-input", "-w", str(folder)]
    subprocess.run([*command, *pip_arguments, requirement], capture_output=True, check=False)
    made = set(folder.glob("*.whl")) - before
    for foreign in [path for path in made if not path.name.endswith("-none-any.whl")]:
        foreign.unlink()
    return any(path.exists() for path in made)


def _pip(asked: Sequence[str], folder: Path, target: Target, pip_arguments: Sequence[str]) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-input", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--dest", str(folder), "--implementation", "cp"]
    command += ["--python-version", target.python, "--abi", f"cp{target.python.replace('.', '')}"]
    for platform in target.platforms:
        command += ["--platform", platform]
    done = subprocess.run([*command, *pip_arguments, *asked], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    last = (errors or done.stderr.strip().splitlines() or ["pip said nothing"])[-1].removeprefix("ERROR: ")
    error = _NoWheel(
        f"the wheelhouse for Python {target.python} on {target.machine}",
        f"cannot be completed: {last}",
        "Is the package index reached, or the mirror that pip is configured for?",
    )
    if found := re.search(r"No matching distribution found for ([A-Za-z0-9._-]+[^\s(;]*)", last):
        error.what = found[1]
        raise error
    raise NetworkError(error.thing, error.fact, error.remedy)


def _missing(
    wheels: Iterable[Path], target: Target, extras: Sequence[str], packages: Sequence[str] = ()
) -> dict[str, str]:
    """Return requirements that hold for the target and that no wheel satisfies, by name."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    needs = {canonicalize_name(path.name.split("-")[0]): _requirements(path) for path in wheels}
    needed, open_ = set(), [Requirement(f"edge-sft[{','.join(extras)}]"), *map(Requirement, packages)]
    missing: dict[str, str] = {}
    while open_:
        asked = open_.pop()
        name = canonicalize_name(asked.name)
        if (name, frozenset(asked.extras)) in needed:
            continue
        needed.add((name, frozenset(asked.extras)))
        if name not in needs:
            missing[name] = f"{asked.name}{asked.specifier}"
            continue
        open_ += [one for one in needs[name] if _holds(one, target, asked.extras)]
    return missing


def _holds(requirement: Requirement, target: Target, extras: Iterable[str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({**target.markers, "extra": extra}) for extra in ("", *extras))


def _requirements(wheel: Path) -> list[Requirement]:
    from packaging.requirements import Requirement

    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        told = email.message_from_bytes(archive.read(name))
    return [Requirement(str(line)) for line in told.get_all("Requires-Dist", [])]


def _entry(path: Path) -> WheelEntry:
    content = path.read_bytes()
    return WheelEntry(name=path.name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))

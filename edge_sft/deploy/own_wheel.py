"""edge-sft's own wheel: built from the checkout it runs from, or put together again from its installed files."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import edge_sft
from edge_sft import profile as profiles
from edge_sft.errors import DeviceError

_NOT_CARRIED = ("INSTALLER", "RECORD", "REQUESTED", "direct_url.json")
_EPOCH = (2020, 1, 1, 0, 0, 0)  # the same files give the same wheel, whenever


def made_of() -> str:
    """Return a SHA-256 over the package's own files: two machines with the same one run the same code."""
    package = Path(edge_sft.__file__).parent
    files = {f"edge_sft/{path.relative_to(package).as_posix()}": path for path in _files(package)}
    for kind in ("devices", "federation"):
        folder = profiles.data_directory(kind)
        files |= {f"edge_sft/_data/{kind}/{path.relative_to(folder).as_posix()}": path for path in _files(folder)}
    summed = hashlib.sha256()
    for name, path in sorted(files.items()):
        summed.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return summed.hexdigest()


def make(out: Path) -> Path:
    """Make the wheel in a folder.

    Raises:
        DeviceError: pip cannot build it, or this installation lacks its own records.
    """
    checkout = Path(edge_sft.__file__).parent.parent
    return _build(checkout, out) if (checkout / "pyproject.toml").is_file() else _from_installed(out)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def _build(checkout: Path, out: Path) -> Path:
    alone = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-cache-dir", "--no-input", *alone]
    done = subprocess.run([*command, "-w", str(out), str(checkout)], capture_output=True, text=True, check=False)
    wheels = list(out.glob("edge_sft-*.whl"))
    if done.returncode != 0 or not wheels:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise DeviceError(str(checkout), f"cannot be made into a wheel ({last})", "pip install hatchling, then again.")
    return wheels[0]


def _from_installed(out: Path) -> Path:
    try:
        found = distribution("edge-sft")
    except PackageNotFoundError as error:
        raise DeviceError("edge-sft", "is not installed as a package here", "pip install it, then again.") from error
    path = out / f"edge_sft-{found.version}-py3-none-any.whl"
    record = []
    folder = f"edge_sft-{found.version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in sorted(_contents(found).items()):
            wheel.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(content)}\n")
        listed = "".join([*record, f"{folder}/RECORD,,\n"])
        wheel.writestr(zipfile.ZipInfo(f"{folder}/RECORD", _EPOCH), listed, zipfile.ZIP_DEFLATED)
    return path


def _contents(found: Distribution) -> dict[str, bytes]:
    """Return the installed files by their names in a wheel; scripts are made anew from the entry points."""
    contents = {}
    for file in found.files or ():
        carried = not file.parts[0].startswith("..") and "__pycache__" not in file.parts
        if carried and file.name not in _NOT_CARRIED:
            contents[file.as_posix()] = Path(str(file.locate())).read_bytes()
    if not contents:
        raise DeviceError("edge-sft", "was installed without a record of its files", "pip install it again.")
    return contents

"""Writing on the device's disk, and saying in words what it refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from edge_sft.deploy.remote.device.wire import Refusal


@contextlib.contextmanager
def spoken(path: Path) -> Iterator[None]:
    """Turn what a disk refuses into words about ``path``."""
    try:
        yield
    except OSError as error:
        raise refused(path, error) from error


def refused(path: Path, error: OSError) -> Refusal:
    """Say in words what a disk refused."""
    if error.errno == errno.ENOSPC:
        return Refusal("DeviceError", str(path), "the disk is full", "Free some space there and run it again.")
    if error.errno == errno.EROFS:
        return Refusal("DeviceError", str(path), "lies on a disk that is read-only", "Give a folder with --root.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Refusal("DeviceError", str(path), _whose(path), "Give another folder with --root, or another user.")
    return Refusal("DeviceError", str(path), f"cannot be written ({error.strerror or error})", "Look at the disk.")


def _whose(path: Path) -> str:
    there = next((one for one in (path, *path.parents) if _exists(one)), Path("/"))
    me = name_of(os.getuid())
    try:
        return f"may not be written by user '{me}': '{there}' belongs to '{name_of(there.stat().st_uid)}'"
    except OSError:
        return f"may not be written by user '{me}'"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def name_of(number: int) -> str:
    """Return a user's name, or the number where there is none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def write_durably(path: Path, content: str) -> None:
    """Replace a file's content so that a power cut leaves the old or the new."""
    beside = path.with_name(f".{path.name}.part")
    with beside.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

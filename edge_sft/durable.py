"""Writing files so that a power cut leaves the old content or the new, never half of either."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edge_sft.errors import DeviceError


def sync_directory(directory: Path) -> None:
    """Make renames inside a directory survive a power cut (a no-op where directories cannot be opened)."""
    with contextlib.suppress(PermissionError, IsADirectoryError):  # Windows opens no directories
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file beside ``path``; on leaving cleanly it is fsynced and renamed over ``path``.

    Raises:
        DeviceError: The disk is full or refuses the write; ``path`` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(0o644)
        beside.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        beside.unlink(missing_ok=True)


def sweep(directory: Path) -> None:
    """Remove halves of files that a killed process left; only where nobody else writes now."""
    for half in directory.glob(".*.part"):
        half.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file's content durably. Raises DeviceError when the disk refuses."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Replace a text file's content durably, UTF-8, newlines as given."""
    write_bytes(path, content.encode())


def disk_error(path: Path, error: OSError) -> DeviceError:
    """Say in words what a disk refused."""
    if error.errno == errno.ENOSPC:
        return DeviceError(str(path), "the disk is full", f"Free some space under {path.parent} and run it again.")
    return DeviceError(str(path), f"cannot be written ({error.strerror or error})", "Check the folder's rights.")

"""One deploy at a time: a lock that the operating system lets go of when its owner dies, however it dies."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from edge_sft.durable import disk_error
from edge_sft.errors import UserError

_FAR = 1 << 30  # Windows locks bytes against reading too: lock one far behind the note, which stays readable


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file while the block runs. The file stays; only the lock on it means anything.

    Raises:
        UserError: Another process holds it.
        DeviceError: The file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise disk_error(path, error) from error
    try:
        if not _try_lock(handle):
            raise UserError(
                str(path.parent),
                f"is being changed by another deploy or rollback ({_owner(path)})",
                "Wait for it to end, then try again.",
            )
        with contextlib.suppress(OSError):  # a full disk must not stop a rollback
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()}".encode())
        yield
    finally:
        os.close(handle)  # closing lets go of the lock, here and on a crash


def _owner(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="ascii", errors="replace").strip() or "unknown process"
    return "unknown process"


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        os.lseek(handle, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(handle, 0, os.SEEK_SET)
        return True
else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

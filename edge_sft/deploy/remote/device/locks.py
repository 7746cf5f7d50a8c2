"""Locks that the operating system lets go of when their owner dies, however it dies."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_sft.deploy.remote.device.disk import spoken
from edge_sft.deploy.remote.device.wire import Refusal

_QUIET_S = 5.0  # a link that lives is heard every two seconds
_GRACE_S = 3.0  # a killed deploy needs a moment to be gone


class Session:
    """One deploy over a link at a time. The lock's file tells who, and by its time when he was last heard."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = -1

    def take(self, who: str, silence_s: float, tell: Callable[[str], None]) -> None:
        """Take the lock; waits for one whose link fell silent.

        Raises:
            Refusal: Somebody else is at work.
        """
        with spoken(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        began = time.monotonic()
        while not try_lock(handle):
            waited = time.monotonic() - began
            # a clock that was set back since puts the last word into the future: nobody has spoken since then
            quiet = abs(time.time() - self._path.stat().st_mtime) > _QUIET_S
            if waited > (silence_s + 10.0 if quiet else _GRACE_S):
                raise Refusal(
                    "UserError",
                    str(self._path.parent.parent),
                    f"is being deployed to by {_read(self._path).get('who', 'somebody else')}",
                    "Wait for it to end, then try again.",
                )
            if quiet:
                tell("an earlier deploy's link was cut: waiting for the device to give it up")
            time.sleep(0.2)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"who": who, "process": os.getpid()}).encode(), 0)
        self._handle = handle

    def heard(self) -> None:
        """Note that the owner is there."""
        if self._handle >= 0:
            os.utime(self._handle)


def try_lock(handle: int) -> bool:
    """Take a file's lock if nobody has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}

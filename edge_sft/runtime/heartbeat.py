"""A file that says that the agent turns and nothing in it hangs, where no service manager listens (containers).

Its beats are those that feed systemd's watchdog: none comes while a pipeline is stuck. Times are those of the
monotonic clock, which all processes of a machine share and which nobody sets; a file of the time before a restart of
the machine therefore never looks fresh for long, and one from the future counts as old.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from edge_sft.errors import DeviceError
from edge_sft.runtime.service import Notify

EVERY_S = 2.0
FRESH_S = 30.0  # three of the longest pauses of a healthy agent: a model that loads, a disk that stalls
_REMEDY = "Look at the agent's log; whatever runs it should start it again."


def beating(path: Path, clock: Callable[[], float] = time.monotonic) -> Notify:
    """Return what writes the file at ``WATCHDOG=1``, every two seconds at most, and takes it away at ``STOPPING=1``.

    A beat that cannot be written is left out: a health check that fails is how it is noticed, not a line that stops.

    Args:
        path: The file; best on a file system in memory.
        clock: Monotonic seconds.
    """
    last_s = float("-inf")

    def notify(fact: str) -> None:
        nonlocal last_s
        with contextlib.suppress(OSError):
            if fact == "STOPPING=1":
                path.unlink(missing_ok=True)
            elif fact == "WATCHDOG=1" and clock() - last_s >= EVERY_S:
                last_s = clock()
                _write(path, {"pid": os.getpid(), "monotonic_s": round(last_s, 3)})

    return notify


def age_s(path: Path, *, fresh_s: float = FRESH_S, clock: Callable[[], float] = time.monotonic) -> float:
    """Return how old the last beat is.

    Raises:
        DeviceError: There is none, it cannot be read, or it is older than ``fresh_s``.
    """
    try:
        beat_s = float(json.loads(path.read_bytes())["monotonic_s"])
    except FileNotFoundError as error:
        raise DeviceError(str(path), "is not there: no agent runs, or it does not turn yet", _REMEDY) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeviceError(str(path), f"is no heartbeat ({error})", _REMEDY) from error
    age = clock() - beat_s
    if not 0 <= age <= fresh_s:
        fact = f"is {age:.0f} s old" if age > 0 else "is of before this machine was started"
        raise DeviceError(f"the agent's heartbeat {path}", fact, _REMEDY)
    return age


def _write(path: Path, beat: dict[str, float]) -> None:
    """Replace the file, so that nobody reads half of it; not synced, it need not outlive the machine."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(beat))
    beside.replace(path)

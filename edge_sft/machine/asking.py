"""Asking the machine: files and programs, never for longer than a limit, never with an exception."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LIMIT_S: Final = 3.0
_MOST = 1 << 20  # what we read is small; a file in /proc or /sys must not fill the memory


@dataclass(frozen=True)
class Told:
    """What a program said. ``status`` is None when it did not end in time."""

    status: int | None
    out: str
    err: str

    @property
    def good(self) -> bool:
        """Whether it ended, and well."""
        return self.status == 0

    @property
    def last(self) -> str:
        """Its last word: the last line that says something, errors first."""
        lines = [line.strip() for text in (self.out, self.err) for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


def read(path: Path | str) -> str | None:
    """Return a text file's content, at most 1 MiB; None where it is not there or not readable."""
    try:
        with Path(path).open("rb") as file:
            return file.read(_MOST).decode("utf-8", errors="replace")
    except (OSError, ValueError):
        return None


def names(folder: Path | str) -> list[str]:
    """Return what a folder holds, sorted; nothing where it is not there."""
    try:
        return sorted(path.name for path in Path(folder).iterdir())
    except OSError:
        return []


def run(*command: str, limit_s: float = LIMIT_S) -> Told | None:
    """Run a program without a shell, terminal or input.

    Returns:
        What it said; None where it is not installed.
    """
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        process = subprocess.Popen(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C", "LANGUAGE": ""},
        )
    except OSError:
        return None
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _end(process)
        return Told(None, "", f"did not answer within {limit_s:g} s")
    return Told(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def run_python(program: str, *, limit_s: float = LIMIT_S) -> Told | None:
    """Run a program in this interpreter's packages, but in a process of its own: it may crash or hang."""
    if not sys.executable:
        return None
    clean = "import sys; sys.path[:] = [place for place in sys.path if place]\n"  # not the folder we stand in
    return run(sys.executable, "-c", clean + program, limit_s=limit_s)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it and what it started; one that hangs in the kernel, as on a dead GPU, is left behind."""
    with contextlib.suppress(OSError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    process.returncode = process.returncode if process.returncode is not None else -int(signal.SIGTERM)

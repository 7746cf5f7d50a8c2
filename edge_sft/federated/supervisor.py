"""Keeping a few programs running in the foreground: started in order, started again when they end, ended together."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Final

from edge_sft import durable
from edge_sft.errors import DeviceError, UserError

MARK: Final = "EDGE_SFT_SUPERVISED"  # in the environment of every process below a part: whose it is
_GRACE_S: Final = 10.0
_PATIENCE_S: Final = 120.0
_STEADY_S: Final = 60.0  # who ran this long starts again at once
_LONGEST_WAIT_S: Final = 30.0
_TRIM_EVERY_S: Final = 60.0


@dataclass(frozen=True)
class Part:
    """A program to keep running.

    Attributes:
        name: In messages, and of its pid file.
        command: Program and arguments.
        environment: All of it.
        log: Where its output goes, appended.
        ready: Tells whether it does its work.
        prepare: Called before each start; may raise what is wrong in words.
        logs: Further files that it appends to; like ``log`` they are kept below 20 MB, and once more as ``….1``.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    ready: Callable[[], bool]
    prepare: Callable[[], object] = lambda: None
    logs: tuple[Path, ...] = ()


@dataclass
class _Running:
    part: Part
    process: subprocess.Popen[bytes]
    since: float = field(default_factory=time.monotonic)


class Supervisor:
    """Runs parts until it is told to stop.

    Args:
        folder: Where pid files lie; one supervisor a folder.
        parts: In the order in which they start; they end in the reverse order.
        say: Takes what a person should know, one line each.
    """

    def __init__(self, folder: Path, parts: Sequence[Part], say: Callable[[str], None]) -> None:
        self._folder, self._parts, self._say = folder, parts, say
        self._running: dict[str, _Running] = {}

    def run(self, stop: Event, on_ready: Callable[[], None] = lambda: None) -> None:
        """Start every part, keep them running until ``stop`` is set, end them.

        Args:
            stop: Set from anywhere, also by a signal's handler.
            on_ready: Called once, when all parts do their work.

        Raises:
            UserError: Another supervisor runs in this folder.
            DeviceError: A part does not start, the first time; later it is tried for ever.
        """
        with self._alone():
            for part in reversed(self._parts):
                self._sweep(part)  # of all, first: a part that then cannot start must not leave an old one serving
            try:
                for part in self._parts:
                    self._start(part)
                    if not self._wait_ready(part, stop) and not stop.is_set():
                        raise DeviceError(part.name, f"did not start: {_last_line(part.log)}", f"Its log: {part.log}")
                if not stop.is_set():
                    on_ready()
                waits = {part.name: 1.0 for part in self._parts}
                trimmed = 0.0
                while not stop.wait(0.3):
                    for part in self._parts:
                        self._look_after(part, waits, stop)
                    if time.monotonic() - trimmed > _TRIM_EVERY_S:
                        trimmed = time.monotonic()
                        trim_logs(self._parts)
            finally:
                self._end_all()

    def _look_after(self, part: Part, waits: dict[str, float], stop: Event) -> None:
        running = self._running[part.name]
        if running.process.poll() is None:
            return
        steady = time.monotonic() - running.since > _STEADY_S
        waits[part.name] = wait = 1.0 if steady else min(2 * waits[part.name], _LONGEST_WAIT_S)
        self._say(f"{part.name} ended ({_how(running.process.returncode)}); it starts again in {wait:.0f} s")
        self._sweep(part)
        if stop.wait(wait):
            return
        try:
            self._start(part)
        except DeviceError as error:
            self._say(str(error))
        if self._wait_ready(part, stop):
            self._say(f"{part.name} is back")

    def _start(self, part: Part) -> None:
        self._sweep(part)
        part.prepare()
        part.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**part.environment, MARK: self._mark(part)}
        with part.log.open("ab") as log:
            process = subprocess.Popen(
                part.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the supervisor, which ends the parts in order
            )
        self._running[part.name] = _Running(part, process)
        durable.write_text(self._pid_file(part), f"{process.pid}\n")

    def _wait_ready(self, part: Part, stop: Event) -> bool:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline and not stop.is_set():
            if self._running[part.name].process.poll() is not None:
                return False
            if part.ready():
                return True
            stop.wait(0.2)
        return False

    def _end_all(self) -> None:
        for part in reversed(self._parts):
            running = self._running.pop(part.name, None)
            if running is None:
                continue
            running.process.terminate()
            try:
                running.process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
            self._sweep(part)
            self._pid_file(part).unlink(missing_ok=True)

    def _sweep(self, part: Part) -> None:
        """End what a killed part, or the part of a killed supervisor, left running: its session and its mark tell."""
        session, deadline = _read_pid(self._pid_file(part)), time.monotonic() + _GRACE_S
        seen: set[int] = set()  # a process that is being taken down has no environment any more, but its ports still
        while time.monotonic() < deadline:  # looked for again: what is killed may have been starting another just then
            left = [
                pid
                for pid in _processes()
                if _mark_of(pid) == self._mark(part) or (session and _session_of(pid) == session and _is(pid, part))
            ]
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            seen.update(left)
            if not any(_holds(pid) for pid in seen):
                return
            time.sleep(0.05)

    def _mark(self, part: Part) -> str:
        return f"{self._folder}:{part.name}"

    def _pid_file(self, part: Part) -> Path:
        return self._folder / f"{part.name}.pid"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        import fcntl

        with (self._folder / "up.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    str(self._folder),
                    "is served already by another edge-sft federate up",
                    "Look: edge-sft federate status",
                ) from error
            yield


def free(host: str, port: int, setting: str) -> None:
    """Refuse a port that something listens on, or an address that is not this machine's. Raises DeviceError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            where = f"{host}:{port}"
            if error.errno == errno.EADDRINUSE:
                remedy = f"See who listens: ss -tlnp. Or change `{setting}` in federation.toml."
                raise DeviceError(where, "is in use by another program", remedy) from error
            if error.errno == errno.EACCES:
                remedy = "Ports below 1024 need CAP_NET_BIND_SERVICE; the unit (--unit) gives it."
                raise DeviceError(where, "may not be listened on by this user", remedy) from error
            remedy = f"`{setting}` in federation.toml must be an address of this machine; 0.0.0.0 means all."
            raise DeviceError(where, f"cannot be listened on ({error.strerror or error})", remedy) from error


def answers(host: str, port: int) -> bool:
    """Tell whether something takes connections on a port of this machine."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    try:
        socket.create_connection((here, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def trim_logs(parts: Sequence[Part], limit_bytes: int = 20_000_000) -> None:
    """Copy logs that have grown too long aside and empty them; their writers append, so they go on at the start."""
    for path in {log for part in parts for log in (part.log, *part.logs)}:
        with contextlib.suppress(OSError):
            if path.stat().st_size > limit_bytes:
                shutil.copyfile(path, path.with_name(f"{path.name}.1"))
                os.truncate(path, 0)


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][:300] if lines else "it said nothing"


def _read_pid(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _processes() -> list[int]:
    proc = Path("/proc")  # where there is none (macOS, Windows), nothing is swept
    pids = [int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal()] if proc.is_dir() else []
    return [pid for pid in pids if pid != os.getpid()]


def _holds(pid: int) -> bool:
    """Tell whether a process still has what it had; one that only waits to be reaped has nothing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _mark_of(pid: int) -> str:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return ""
    prefix = f"{MARK}=".encode()
    found = next((row for row in environment.split(b"\0") if row.startswith(prefix)), prefix)
    return found[len(prefix) :].decode(errors="replace")


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _is(pid: int, part: Part) -> bool:
    """Tell whether a process is of a part's program: a session's number may long be another's."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return False
    return name == Path(part.command[0]).name[:15]

"""Serving a site: look, start the node, say what it does, start it again when it ends; until told to stop."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from threading import Event
from typing import Final, Protocol

from edge_sft.errors import EdgeSftError
from edge_sft.federated import preflight, site_files
from edge_sft.federated.preflight import Finding
from edge_sft.federated.site_files import SiteFile, State
from edge_sft.prediction import rfc3339

_FIRST_WAIT_S: Final = 2.0
_LONGEST_WAIT_S: Final = 30.0
_STEADY_S: Final = 60.0  # who served this long is tried again at once
_POLL_S: Final = 0.3
_STOPPING_S: Final = 20.0
_LOG: Final = "node.log"
_LOG_BYTES: Final = 5 * 2**20

Say = Callable[[str], None]


class Child(Protocol):
    """A running node."""

    def poll(self) -> int | None:
        """Return its exit status, None while it runs."""
        ...

    def stop(self) -> None:
        """End it and wait for it."""
        ...


@dataclass
class Serving:
    """What serving needs of the world.

    Attributes:
        directory: The site's folder.
        say: Takes a line for people.
        stop: Set from outside to end.
        look: Looks whether the coordinator can be served.
        start: Starts a node.
    """

    directory: Path
    say: Say
    stop: Event
    look: Callable[[SiteFile], list[Finding]]
    start: Callable[[], Child]
    clock: Callable[[], float] = time.monotonic
    _said: str = field(default="", init=False)

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            UserError: No site here, or another process serves it.
        """
        site = site_files.read_site(self.directory)
        with site_files.locked(self.directory):
            waits = backoff()
            while not self.stop.is_set():
                before = self.clock()
                if self._may_start(site):
                    self._serve()
                if self.clock() - before > _STEADY_S:
                    waits = backoff()
                self.stop.wait(next(waits))
            self._keep("stopped", "")

    def _may_start(self, site: SiteFile) -> bool:
        errors = [finding for finding in self.look(site) if finding.level == "error"]
        if errors:
            self._tell("waiting", " ".join(f"{one.what}: {one.fact}. {one.remedy}" for one in errors))
        return not errors

    def _serve(self) -> None:
        """Run one node until it ends or is told to stop; say what changes."""
        try:
            child = self.start()
        except OSError as error:
            self._tell("waiting", f"the node does not start ({error.strerror or error})")
            return
        try:
            while child.poll() is None and not self.stop.is_set():
                self._say_state()
                self.stop.wait(_POLL_S)
            self._say_state()
        finally:
            child.stop()

    def _say_state(self) -> None:
        state = site_files.read_state(self.directory)
        if state is not None:
            self._speak(state.state, state.why)

    def _tell(self, state: str, why: str) -> None:
        self._keep(state, why)
        self._speak(state, why)

    def _keep(self, state: str, why: str) -> None:
        site_files.write_state(self.directory, State(state, rfc3339(datetime.now(timezone.utc)), why, os.getpid()))

    def _speak(self, state: str, why: str) -> None:
        line = f"{state}: {why}" if why else state
        if line != self._said:
            self._said = line
            self.say(line)


def backoff() -> Iterator[float]:
    """Yield seconds to wait between tries: 2, 4, 8 … 30."""
    wait = _FIRST_WAIT_S
    while True:
        yield wait
        wait = min(2 * wait, _LONGEST_WAIT_S)


class _Process:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(_STOPPING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def start_node(directory: Path, *, warm: bool = True) -> Child:
    """Start the node as a child that ends when this process does, however it ends; its output goes to a file."""
    log = directory / _LOG
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    command = [sys.executable, "-P", "-m", "edge_sft.federated.node", str(directory), "--child"]
    command += [] if warm else ["--cold"]
    with log.open("ab") as file:
        return _Process(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file))


def serve(directory: Path, say: Say, stop: Event, *, warm: bool = True) -> None:
    """Serve a site until ``stop`` is set.

    Raises:
        UserError: No site here, or another process serves it.
        DeviceError: Flower is missing or of an unknown version.
    """
    from edge_sft.federated.node import check_version

    check_version()

    def look(site: SiteFile) -> list[Finding]:
        try:
            found = preflight.coordinator(site.address, site_files.read_ca(directory))
        except EdgeSftError as error:
            return [preflight.of_error("coordinator", error)]
        return [*found, preflight.disk(directory)]

    Serving(directory, say, stop, look, lambda: start_node(directory, warm=warm)).run()

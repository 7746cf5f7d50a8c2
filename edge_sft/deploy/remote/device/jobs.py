"""One long piece of work that outlives the link that asked for it; who asks for the same again watches it go on."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_sft.deploy.remote.device.disk import spoken, write_durably
from edge_sft.deploy.remote.device.locks import try_lock
from edge_sft.deploy.remote.device.wire import Refusal

_POLL_S = 0.1


class Job:
    """`<root>/remote/job.*`: what was asked for, its lines, and a lock that its process holds while it lives."""

    def __init__(self, folder: Path) -> None:
        self._asked, self._lines, self._errors = (folder / f"job.{end}" for end in ("json", "events", "err"))
        self._lock = folder / "job.lock"

    def run(self, asked: dict[str, Any], command: list[str], tell: Callable[[dict[str, Any]], None]) -> None:
        """Run a command, or watch it when it runs already; hands on its JSON lines until it ends.

        Args:
            asked: What makes two jobs the same.
            command: What to run.
            tell: Given each line, and at the end ``{"ended": what it wrote to standard error}``.

        Raises:
            Refusal: Another job is at work.
        """
        with spoken(self._lock):
            handle = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if try_lock(handle):
                self._start(asked, command, handle)
            elif self._running() == asked:
                tell({"event": "note", "text": "the deploy whose link was cut is still at work: watching it"})
            else:
                raise Refusal(
                    "UserError",
                    str(self._lock.parent.parent),
                    "still proves what an earlier deploy, whose link was cut, asked for",
                    "Wait for it to end, then try again.",
                )
        finally:
            os.close(handle)  # the process holds its own
        self._watch(tell)

    def _start(self, asked: dict[str, Any], command: list[str], handle: int) -> None:
        with spoken(self._asked):
            write_durably(self._asked, json.dumps(asked))
            with self._lines.open("wb") as lines, self._errors.open("wb") as errors:
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=lines,
                    stderr=errors,
                    pass_fds=(handle,),
                    start_new_session=True,
                    cwd="/",
                )

    def _running(self) -> Any:
        try:
            return json.loads(self._asked.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _alive(self) -> bool:
        handle = os.open(self._lock, os.O_RDWR)
        try:
            return not try_lock(handle)
        finally:
            os.close(handle)

    def _watch(self, tell: Callable[[dict[str, Any]], None]) -> None:
        with self._lines.open("rb") as lines:
            waiting = b""
            while True:
                alive = self._alive()  # asked before reading: what it wrote last is then read
                waiting += lines.read()
                *whole, waiting = waiting.split(b"\n")
                for line in whole:
                    _hand_on(line, tell)
                if not alive:
                    break
                time.sleep(_POLL_S)
        tell({"ended": self._errors.read_text(encoding="utf-8", errors="replace")[-4000:]})


def _hand_on(line: bytes, tell: Callable[[dict[str, Any]], None]) -> None:
    try:
        event = json.loads(line)
    except ValueError:
        return
    if isinstance(event, dict):
        tell(event)

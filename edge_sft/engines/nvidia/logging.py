"""What NVIDIA's library says. It keeps the first logger it is given for the rest of the process, so there is one."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from functools import cache
from itertools import islice
from typing import Any, cast

from edge_sft.engines.nvidia import api

_KEPT = 200


class Messages:
    """The library's errors, oldest first. Nothing is printed: what matters is said in the error that we raise."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self._count = 0

    def add(self, line: str) -> None:
        """Take in an error."""
        self._lines.append(" ".join(line.split())[:300])
        self._count += 1

    def mark(self) -> int:
        """Return where now is, for `since`."""
        return self._count

    def since(self, mark: int) -> str:
        """Return the first error since a mark: that is the cause, what follows are its consequences."""
        dropped = self._count - len(self._lines)
        found = next(islice(self._lines, max(0, mark - dropped), None), "")
        return found or "the library does not say why"


@cache
def logger(library: Hashable) -> tuple[Any, Messages]:
    """Return the process's logger for a library, and what it collects.

    NVIDIA documents that a process has one logger and that it must live as long as anything made with it.
    """
    messages = Messages()
    module = cast("api.Library", library)
    serious = (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR)

    def log(_: Any, severity: Any, msg: str) -> None:
        if severity in serious:
            messages.add(msg)

    return type("Logger", (module.ILogger,), {"__init__": module.ILogger.__init__, "log": log})(), messages

"""`--events`: progress and outcome of a deploy as JSON lines, for another program to read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from edge_sft.errors import EdgeSftError


class EventLines:
    """A Progress that writes one JSON object a line.

    Args:
        write: Takes each line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def start(self, title: str, total: int) -> None:
        """Write ``{"event": "start", …}``."""
        self._say(event="start", title=title, total=total)

    def advance(self, units: int = 1, note: str = "") -> None:
        """Write ``{"event": "advance", …}``."""
        self._say(event="advance", units=units, note=note)

    def result(self, proof: dict[str, Any], *, changed: bool) -> None:
        """Write the outcome: the whole proof, and whether the device now serves something else."""
        self._say(event="result", changed=changed, proof=proof)

    def error(self, error: EdgeSftError) -> None:
        """Write what refused it, by the name of its class."""
        kind = type(error).__name__
        self._say(event="error", kind=kind, thing=error.thing, fact=error.fact, remedy=error.remedy)

    def _say(self, **event: Any) -> None:
        self._write(json.dumps(event))

"""The port through which long work tells how far it is; the command line draws it, tests count it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """One bar at a time: `start` a phase, `advance` through it; a new `start` ends the phase before."""

    def start(self, title: str, total: int) -> None:
        """Begin a phase of ``total`` units."""
        ...

    def advance(self, units: int = 1, note: str = "") -> None:
        """Report progress; ``note`` is the newest fact worth a glance, e.g. ``val 0.93``."""
        ...


class Silent:
    """Progress that nobody watches."""

    def start(self, title: str, total: int) -> None:
        """Do nothing."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """Do nothing."""

"""All checks of a machine, at once, each with a limit: one that hangs or fails is a finding, never an exception."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from edge_sft.machine.finding import Finding
from edge_sft.machine.gathering import hardware, plant, programs
from edge_sft.machine.gathering.place import Place

LIMIT_S: Final = 60.0  # above the slowest that is allowed: waking a GPU, then loading TensorRT from an SD card
Check = Callable[[Place], list[Finding]]
CHECKS: Final[dict[str, Check]] = {
    "software": programs.of_software,
    "NVIDIA": programs.of_nvidia,
    "power": hardware.of_power,
    "disk": hardware.of_disk,
    "clock": hardware.of_clock,
    "cameras": plant.of_cameras,
    "certificates": plant.of_certificates,
    "system": hardware.of_system,
    "broker": plant.of_broker,
}


def look_over(place: Place, checks: dict[str, Check] | None = None, limit_s: float = LIMIT_S) -> list[Finding]:
    """Run the checks and return what they found, in their order."""
    running = [_Running(name, check, place) for name, check in (checks or CHECKS).items()]
    end = time.monotonic() + limit_s
    for one in running:
        one.thread.join(max(0.0, end - time.monotonic()))
    return [finding for one in running for finding in one.found(limit_s)]


class _Running:
    """A check in a thread of its own, which does not keep the program from ending."""

    def __init__(self, name: str, check: Check, place: Place) -> None:
        self._name = name
        self._found: Sequence[Finding] | None = None
        self._check, self._place = check, place
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._found = self._check(self._place)
        except Exception as error:  # noqa: BLE001  # machines differ beyond what we know; one check must not end the rest
            fact = f"could not be looked at ({type(error).__name__}: {error})"
            self._found = [Finding("note", self._name, fact, "Please report it.")]

    def found(self, limit_s: float) -> list[Finding]:
        if self._found is None:
            fact = f"did not answer within {limit_s:g} s"
            return [Finding("bad", self._name, fact, "Something in the machine hangs: look at dmesg.")]
        return list(self._found)

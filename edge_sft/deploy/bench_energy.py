"""Joules since some moment, where a machine tells: RAPL (x86), NVML (NVIDIA cards), INA3221 (Jetson boards).

Every meter that is there counts; each that is not says why, because a missing number must not look like none.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edge_sft.errors import DeviceError

_SYS = Path("/sys")
# all of an Orin Nano's or NX's module; an AGX has no such rail, and the sum of its parts instead (Jetson Linux guide)
_WHOLE, _PARTS = "VDD_IN", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
_SAMPLE_S = 0.02  # INA3221 converts about every 10 ms and has no counter: power is read and summed


class Meter(Protocol):
    """Counts energy."""

    @property
    def name(self) -> str:
        """What is counted: ``processor``, ``gpu`` or ``board``."""
        ...

    def joules(self) -> float:
        """Return the energy since the meter was opened. Raises DeviceError when it stops telling."""
        ...

    def close(self) -> None:
        """End what reads it."""
        ...


@contextlib.contextmanager
def meters(sys: Path = _SYS, library: str = "libnvidia-ml.so.1") -> Iterator[tuple[list[Meter], list[str]]]:
    """Yield the meters of this machine, and why others could not be read, in words."""
    tried = [_opened(lambda: Rapl(sys)), _opened(lambda: Nvml(library)), _opened(lambda: Ina(sys))]
    missing = [one for one in tried if isinstance(one, str)]
    found = [one for one in tried if not isinstance(one, str)]
    try:
        yield found, missing
    finally:
        for meter in found:
            meter.close()


def _opened(opener: Callable[[], Meter]) -> Meter | str:
    """Return a meter, or why there is none."""
    try:
        return opener()
    except DeviceError as error:
        return f"{error.thing}: {error.fact}"


@dataclass
class _Counter:
    """A file of microjoules that starts again at ``wraps``."""

    file: Path
    wraps: int
    last: int
    total: int = 0

    def read(self) -> int:
        now = int(self.file.read_text(encoding="ascii"))
        self.total += now - self.last if now >= self.last else now + self.wraps - self.last
        self.last = now
        return self.total


class Rapl:
    """The processor's own counters, one a socket; those of its parts are in them already."""

    name = "processor"

    def __init__(self, sys: Path = _SYS) -> None:
        root = sys / "class" / "powercap"
        zones = [zone for zone in sorted(root.glob("*-rapl:*")) if zone.name.count(":") == 1]
        if not zones:
            raise DeviceError("processor", f"{root} has no RAPL counter (hidden in most virtual machines; none on Arm)")
        try:
            self._counters = [self._open(zone) for zone in zones]
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise DeviceError("processor", f"{zones[0]}/energy_uj cannot be read ({why}): root may") from error

    def joules(self) -> float:
        """Return the energy of all sockets; call at least once a minute, as the counters wrap."""
        try:
            return sum(counter.read() for counter in self._counters) / 1e6
        except (OSError, ValueError) as error:
            raise DeviceError("processor", f"its energy counter stopped telling ({error})") from error

    def close(self) -> None:
        """Nothing is open."""

    @staticmethod
    def _open(zone: Path) -> _Counter:
        wraps = int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
        file = zone / "energy_uj"
        return _Counter(file, wraps, int(file.read_text(encoding="ascii")))


class Nvml:
    """The first NVIDIA card's counter of millijoules (Volta and later), and its memory."""

    name = "gpu"

    def __init__(self, library: str = "libnvidia-ml.so.1") -> None:
        try:
            self._nvml = ctypes.CDLL(library)
        except OSError as error:
            raise DeviceError("gpu", f"{library} is not on this machine (no NVIDIA driver)") from error
        self._card = ctypes.c_void_p()
        self._ask("nvmlInit_v2")
        self._ask("nvmlDeviceGetHandleByIndex_v2", 0, ctypes.byref(self._card))
        self._first = self._millijoules()

    def joules(self) -> float:
        """Return the card's energy."""
        return (self._millijoules() - self._first) / 1e3

    def memory_mb(self) -> float:
        """Return the card's memory in use, MiB."""

        class Memory(ctypes.Structure):
            """nvmlMemory_t."""

            _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]

        memory = Memory()
        self._ask("nvmlDeviceGetMemoryInfo", self._card, ctypes.byref(memory))
        return float(memory.used) / (1 << 20)

    def close(self) -> None:
        """Let go of the library."""
        with contextlib.suppress(DeviceError):
            self._ask("nvmlShutdown")

    def _millijoules(self) -> int:
        value = ctypes.c_ulonglong()
        self._ask("nvmlDeviceGetTotalEnergyConsumption", self._card, ctypes.byref(value))
        return value.value

    def _ask(self, name: str, *arguments: Any) -> None:
        try:
            status = getattr(self._nvml, name)(*arguments)
        except AttributeError as error:
            raise DeviceError("gpu", f"this driver's NVML has no {name}") from error
        if status:
            raise DeviceError("gpu", f"{name} says {status} (NVML's error number)")


class Ina:
    """The power monitor of a Jetson's carrier: the rail that feeds the whole module, sampled."""

    name = "board"

    def __init__(self, sys: Path = _SYS) -> None:
        rails = [
            label
            for label in sorted(sys.glob("bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label"))
            if _words(label) in (_WHOLE, *_PARTS)
        ]
        if not rails:
            raise DeviceError("board", "no INA3221 power monitor (this is no Jetson)")
        whole = [rail for rail in rails if _words(rail) == _WHOLE]
        self._rails = [_volts_and_amperes(rail) for rail in whole or rails]
        self._total, self._trouble = 0.0, ""
        self._end = threading.Event()
        self._watts()  # a rail that cannot be read is told now
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def joules(self) -> float:
        """Return what was summed so far."""
        if self._trouble:
            raise DeviceError("board", self._trouble)
        return self._total

    def close(self) -> None:
        """Stop sampling."""
        self._end.set()
        self._thread.join(timeout=5)

    def _sample(self) -> None:
        last = time.monotonic()
        while not self._end.wait(_SAMPLE_S):
            try:
                watts = self._watts()
            except DeviceError as error:
                self._trouble = error.fact
                return
            now = time.monotonic()
            self._total += watts * (now - last)
            last = now

    def _watts(self) -> float:
        try:
            return sum(int(volts.read_text()) * int(amps.read_text()) for volts, amps in self._rails) / 1e6
        except (OSError, ValueError) as error:
            raise DeviceError("board", f"its power monitor cannot be read ({error})") from error


def _words(label: Path) -> str:
    try:
        return label.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _volts_and_amperes(label: Path) -> tuple[Path, Path]:
    volts = label.name.replace("_label", "_input")
    return label.with_name(volts), label.with_name(volts.replace("in", "curr", 1))

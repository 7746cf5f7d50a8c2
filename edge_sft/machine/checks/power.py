"""Power, clocks of the processor, heat: why a machine is slower than it could be."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from edge_sft.machine.finding import Finding


def power_mode(said: str, config: str) -> Finding | None:
    """Judge a Jetson's power mode; None where nothing tells it.

    Args:
        said: ``nvpmodel -q`` (``NV Power Mode: 15W`` and, on the next line, its number), or
            /var/lib/nvpmodel/status (``pmode:0000``).
        config: /etc/nvpmodel.conf, whose lines ``< POWER_MODEL ID=2 NAME=MAXN_SUPER >`` list the modes; the numbers
            differ from board to board and release to release.
    """
    modes = {int(n): name for n, name in re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", config)}
    named, numbered = re.search(r"NV Power Mode:\s*(\S+)", said), re.search(r"pmode:(\d+)", said)
    now = named[1] if named else modes.get(int(numbered[1]), "") if numbered else ""
    if not now:
        return None
    if "MAXN" in now:
        return Finding("good", "power mode", now)
    best = next((n for want in ("MAXN_SUPER", "MAXN") for n, name in modes.items() if name == want), None)
    if best is None and modes:
        best = max(modes, key=lambda n: _watts(modes[n]))
    if best is None or modes[best] == now:
        return Finding("note", "power mode", f"{now}, not MAXN", "See what there is: cat /etc/nvpmodel.conf")
    remedy = f"If supply and cooling allow: sudo nvpmodel -m {best} ({modes[best]}). Then deploy again: proofs were "
    return Finding("note", "power mode", f"{now}; {modes[best]} is faster", f"{remedy}measured in the old mode.")


def _watts(name: str) -> int:
    found = re.search(r"(\d+)W", name)
    return int(found[1]) if found else 0


def governor(names: Collection[str]) -> Finding | None:
    """Judge the processor's frequency governors, one a core; None where the system does not tell."""
    kinds = sorted({name.strip() for name in names if name.strip()})
    if not kinds:
        return None
    fact = ", ".join(kinds)
    if set(kinds) <= {"performance", "schedutil", "ondemand", "interactive"}:
        return Finding("good", "CPU governor", fact)
    remedy = "For even latencies: sudo cpupower frequency-set -g performance (linux-tools), or the BIOS's setting"
    return Finding("note", "CPU governor", f"{fact}: the processor holds its clock back", remedy)


@dataclass(frozen=True)
class Zone:
    """A thermal zone of Linux, in °C; ``passive`` is where clocks are lowered, None where it is not told."""

    name: str
    celsius: float
    passive: float | None = None


def heat(zones: Collection[Zone]) -> Finding | None:
    """Judge temperatures; None where none can be read."""
    real = [zone for zone in zones if -40 < zone.celsius < 150]  # a sensor that sleeps says -256 or 0.0 K
    if not real:
        return None
    hottest = max(real, key=lambda zone: zone.celsius - (zone.passive or 95.0))
    limit = hottest.passive or 95.0
    fact = f"{hottest.celsius:.0f} °C at {hottest.name}; clocks go down at {limit:.0f} °C"
    if hottest.celsius >= limit:
        return Finding("bad", "heat", f"{fact}: it is slowed down now", "Clean the fan, improve the cooling.")
    if hottest.celsius >= limit - 8:
        return Finding("note", "heat", fact, "There is little left for a hot day: improve the cooling.")
    return Finding("good", "heat", fact)


_BITS = {0: "too low a voltage", 1: "the clock was capped", 2: "slowed down", 3: "too hot"}


def throttled(raspberry: str, counts: Collection[str], gpu: Mapping[str, str]) -> Finding | None:
    """Judge what says that clocks were held down; None where nothing tells.

    Args:
        raspberry: A Raspberry Pi's ``get_throttled`` as a hexadecimal number: bits 0-3 now, 16-19 since the start.
        counts: ``core_throttle_count`` of the cores of an Intel processor, since the start.
        gpu: Reasons that nvidia-smi names, and ``Active`` or ``Not Active``.
    """
    if raspberry.strip():
        bits = int(raspberry.strip().removeprefix("throttled=").removeprefix("0x"), 16)
        now = [words for bit, words in _BITS.items() if bits >> bit & 1]
        before = [words for bit, words in _BITS.items() if bits >> (bit + 16) & 1]
        if now or before:
            fact = f"{'now' if now else 'since the start'}: {', '.join(now or before)}"
            return Finding("bad" if now else "note", "throttling", fact, "Use the official supply, and a fan.")
        return Finding("good", "throttling", "none since the start")
    active = [name for name, state in gpu.items() if state.strip() == "Active"]
    if active:
        return Finding("bad", "throttling", f"the GPU is slowed down: {', '.join(active)}", "Look at fan and supply.")
    total = sum(int(count) for count in counts if count.strip().isdigit())
    if total:
        fact = f"the processor was slowed down by heat {total:,} times since the start"
        return Finding("note", "throttling", fact, "Clean the fan, improve the cooling.")
    return Finding("good", "throttling", "none since the start") if counts or gpu else None

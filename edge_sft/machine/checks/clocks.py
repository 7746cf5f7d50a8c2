"""The time: wrong ones break certificates and order."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Final

from edge_sft.machine.finding import Finding

RELEASED_S: Final = 1_767_225_600  # 2026-01-01: a clock before this is wrong, and certificates will fail on it
_SYNC = "sudo timedatectl set-ntp true, with the plant's server in /etc/systemd/timesyncd.conf"


def clock(now: float) -> Finding:
    """Catch the clock of a machine whose battery died."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < RELEASED_S:
        remedy = "Set it (NTP): TLS fails on a wrong clock."
        return Finding("bad", "clock", f"says {stamp}, which is in the past", remedy)
    return Finding("good", "clock", stamp)


def synchronised(timedatectl: str, chronyc: str) -> Finding | None:
    """Judge whether the clock follows a server; None where nothing tells.

    Args:
        timedatectl: ``timedatectl show``.
        chronyc: ``chronyc tracking``.
    """
    leap = re.search(r"Leap status\s*:\s*(.+)", chronyc)
    if leap:
        if "Not synchronised" in leap[1]:
            return Finding("note", "clock", "chrony reaches no server", "Look at: chronyc sources")
        offset = re.search(r"System time\s*:\s*([\d.]+) seconds", chronyc)
        about = f", {float(offset[1]) * 1000:.1f} ms off" if offset else ""
        return Finding("good", "clock", f"chrony follows a server{about}")
    told = dict(line.split("=", 1) for line in timedatectl.splitlines() if "=" in line)
    if told.get("NTPSynchronized") == "yes":
        return Finding("good", "clock", "follows a time server")
    if "NTPSynchronized" not in told:
        return None
    why = "no time service runs" if told.get("NTP") == "no" else "no time server answers"
    return Finding("note", "clock", f"{why}: it drifts by seconds a day", _SYNC)


def battery(rtcs: Mapping[str, float], now: float, *, board: bool) -> Finding | None:
    """Judge the clock that runs on a battery.

    Args:
        rtcs: Seconds since 1970 of each, by name.
        now: The system's time.
        board: Whether this is a small board; servers and containers without one are nothing to speak of.
    """
    if not rtcs:
        fact = "none: after a power cut the time is wrong until a server answers"
        remedy = "Fit a battery (many boards have a socket), or make sure that the time server is in the plant."
        return Finding("note", "battery clock", fact, remedy) if board else None
    name, seconds = min(rtcs.items(), key=lambda item: abs(item[1] - now))
    apart = abs(seconds - now)
    if apart < 60:
        return Finding("good", "battery clock", f"{name} agrees within {max(apart, 1):.0f} s")
    about = "1970: its battery is empty or missing" if seconds < 31_536_000 * 5 else f"{apart:,.0f} s apart"
    return Finding("note", "battery clock", f"{name} is {about}", "When the time is right: sudo hwclock --systohc")

"""Cameras: whether they are there and may be opened."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from edge_sft.machine.finding import Finding

_CSI = ("vi-output", "imx", "ov5", "ov9", "ar0", "tegra-camrtc", "unicam", "rp1-cfe")


@dataclass(frozen=True)
class Video:
    """A /dev/videoN: what it calls itself, and whether this user may open it."""

    number: int
    name: str
    usable: bool

    @property
    def csi(self) -> bool:
        """Whether it hangs on a MIPI lane, not on USB."""
        return any(sign in self.name.lower() for sign in _CSI)


def cameras(
    videos: Collection[Video], wanted: Collection[int], user: str, groups: Collection[str], *, argus: bool
) -> list[Finding]:
    """Judge the cameras.

    Args:
        videos: Those of this machine.
        wanted: Numbers that agent.toml names.
        user: Who we are.
        groups: Whose member we are.
        argus: Whether nvargus-daemon runs, which serves the CSI cameras of a Jetson.
    """
    there = {video.number for video in videos}
    found = [
        Finding(
            "bad",
            "camera",
            f"agent.toml names camera {number}, /dev/video{number} is not there",
            f"Plugged in? There {'is' if len(there) == 1 else 'are'}: {_numbers(there)}. See: v4l2-ctl --list-devices",
        )
        for number in sorted(set(wanted) - there)
    ]
    shut = [video for video in videos if not video.usable]
    if shut:
        inside = "; the group counts from the next login" if "video" in groups else ""
        remedy = f"sudo usermod -aG video {user}, then log in again{inside}"
        names = _numbers({video.number for video in shut})
        found.append(Finding("bad", "camera", f"{names} may not be opened by '{user}'", remedy))
    usable = [f"/dev/video{video.number} {video.name}".strip() for video in videos if video.usable]
    if usable:
        found.append(Finding("good", "camera", "; ".join(usable)))
    if any(video.csi for video in videos) and not argus:
        fact = "a CSI camera is there, nvargus-daemon does not run: colours come only through it"
        found.append(Finding("note", "camera", fact, "On a Jetson: sudo systemctl restart nvargus-daemon"))
    return found


def _numbers(numbers: Collection[int]) -> str:
    return ", ".join(f"/dev/video{number}" for number in sorted(numbers)) or "none"

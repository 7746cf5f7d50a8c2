"""Disks: room, wear, read-only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from edge_sft.machine.finding import Finding

_BACKUP = "Plan its replacement, and keep a copy of the slots and of agent.toml."


@dataclass(frozen=True)
class Mount:
    """A line of /proc/mounts."""

    device: str
    point: str
    kind: str
    options: tuple[str, ...]


def mount_of(mounts: str, path: PurePosixPath) -> Mount | None:
    """Return the mount that a path lies on; the last of the longest, as a later one hides an earlier."""
    found: Mount | None = None
    for line in mounts.splitlines():
        parts = line.split()
        if len(parts) < 4:
            continue
        point = parts[1].replace("\\040", " ")
        if path == PurePosixPath(point) or PurePosixPath(point) in path.parents:
            if found is None or len(point) >= len(found.point):
                found = Mount(parts[0], point, parts[2], tuple(parts[3].split(",")))
    return found


def disk_of(device: str) -> str:
    """Return the disk of a partition: mmcblk0 of /dev/mmcblk0p1, nvme0n1 of /dev/nvme0n1p2, sda of /dev/sda1."""
    name = device.removeprefix("/dev/")
    found = re.fullmatch(r"((?:mmcblk\d+)|(?:nvme\d+n\d+)|(?:[a-z]+))(?:p?\d+)?", name)
    return found[1] if found else name


def space(free_bytes: int, where: str) -> Finding:
    """Judge the room where slots and journals live."""
    free_mb = free_bytes // 1_000_000
    fact = f"{free_mb:,} MB free under {where}"
    if free_mb < 200:
        return Finding("bad", "disk", fact, "Free at least 200 MB: two slots and the journal live there.")
    if free_mb < 2000:
        return Finding("note", "disk", fact, "Engines of a GPU, a large journal or a recording may want more.")
    return Finding("good", "disk", fact)


def writable(mount: Mount | None, *, may_write: bool, user: str) -> Finding | None:
    """Judge whether slots can be written."""
    if mount is not None and "ro" in mount.options:
        remedy = "If it is meant so, give --root on another disk; else Linux found an error: look at dmesg, run fsck."
        return Finding("bad", "disk", f"{mount.point} ({mount.device}) is mounted read-only", remedy)
    if not may_write:
        return Finding("bad", "disk", f"the folder may not be written by '{user}'", "Change its owner, or the user.")
    return None


def emmc_life(life_time: str, pre_eol: str, disk: str) -> Finding | None:
    """Judge an eMMC's wear (JEDEC 84-B51): ``0x02 0x01`` = the worse of two areas has used 10 to 20 %."""
    steps = [int(word, 16) for word in life_time.split() if re.fullmatch(r"0x[0-9a-fA-F]+", word)]
    if not steps or max(steps) == 0:
        return None
    used = min(max(steps) * 10, 110)
    urgent = pre_eol.strip() in ("0x03", "0x3") or used > 100
    fact = f"{disk} (eMMC) has used {'more than all' if used > 100 else f'up to {used} %'} of its life"
    if urgent:
        return Finding("bad", "disk life", fact, _BACKUP)
    if used >= 80 or pre_eol.strip() in ("0x02", "0x2"):
        return Finding("note", "disk life", fact, _BACKUP)
    return Finding("good", "disk life", fact)


def nvme_life(said: str, disk: str) -> Finding:
    """Judge an NVMe's wear by ``nvme smart-log``, as text or JSON; only root may read it."""
    found = re.search(r"percent(?:age)?_used\"?\s*:\s*(\d+)", said)
    if found is None:
        fact = f"{disk} (NVMe): its wear cannot be read by this user"
        return Finding("note", "disk life", fact, f"sudo nvme smart-log /dev/{disk} (apt install nvme-cli)")
    used = int(found[1])
    spare = re.search(r"avail(?:able)?_spare\"?\s*:\s*(\d+)", said)
    warning = re.search(r"critical_warning\"?\s*:\s*(0x[0-9a-fA-F]+|\d+)", said)
    fact = f"{disk} (NVMe) has used {used} % of its life" + (f", {spare[1]} % spare is left" if spare else "")
    if used >= 100 or (warning is not None and int(warning[1], 0)):
        return Finding("bad", "disk life", fact, _BACKUP)
    return Finding("note", "disk life", fact, _BACKUP) if used >= 80 else Finding("good", "disk life", fact)


def sd_card(kind: str, disk: str) -> Finding | None:
    """Warn of an SD card (/sys/block/mmcblk0/device/type says SD): it does not tell its wear."""
    if kind.strip() != "SD":
        return None
    remedy = "Use an industrial card (pSLC) or better an NVMe disk or eMMC, and keep a copy."
    return Finding("note", "disk life", f"{disk} is an SD card: it wears out by writing and does not say when", remedy)

"""Power, disk, clock, memory: files of /proc and /sys, and the programs that know more."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path, PurePosixPath

from edge_sft.machine.asking import names, read, run
from edge_sft.machine.checks import clocks, power, storage, system
from edge_sft.machine.finding import Finding
from edge_sft.machine.gathering.place import Place, there, user

_LOWEST_TRIP = 60_000  # in m°C; below it are thresholds that programs set, and empty ones, not the machine's limits
_HOT = ("hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown")


def of_power(place: Place) -> list[Finding]:
    """Power mode, governor, heat, throttling."""
    said = run("nvpmodel", "-q")
    mode = said.out if said is not None and said.good else read(place.files / "var/lib/nvpmodel/status") or ""
    cpus = place.files / "sys/devices/system/cpu"
    cores = [name for name in names(cpus) if name.startswith("cpu") and name[3:].isdigit()]
    governors = [read(cpus / core / "cpufreq/scaling_governor") or "" for core in cores]
    counts = [read(cpus / core / "thermal_throttle/core_throttle_count") or "" for core in cores]
    raspberry = read(place.files / "sys/devices/platform/soc/soc:firmware/get_throttled") or ""
    return there(
        power.power_mode(mode, read(place.files / "etc/nvpmodel.conf") or ""),
        power.governor(governors),
        power.heat(_zones(place.files / "sys/class/thermal")),
        power.throttled(raspberry, [count for count in counts if count], _gpu_reasons()),
    )


def of_disk(place: Place) -> list[Finding]:
    """Room, read-only, wear of the disk that the slots lie on."""
    lies = next(one for one in (place.root.absolute(), *place.root.absolute().parents) if one.exists())
    found = [storage.space(shutil.disk_usage(lies).free, str(lies))]
    mount = storage.mount_of(read(place.files / "proc/mounts") or "", PurePosixPath(lies.as_posix()))
    found += there(storage.writable(mount, may_write=os.access(lies, os.W_OK), user=user()))
    if mount is None or not mount.device.startswith("/dev/"):
        return found
    disk = storage.disk_of(mount.device)
    device = place.files / "sys/block" / disk / "device"
    found += there(
        storage.emmc_life(read(device / "life_time") or "", read(device / "pre_eol_info") or "", disk),
        storage.sd_card(read(device / "type") or "", disk),
    )
    if disk.startswith("nvme"):
        told = run("nvme", "smart-log", f"/dev/{disk}")
        found.append(storage.nvme_life(told.out if told is not None else "", disk))
    return found


def of_clock(place: Place) -> list[Finding]:
    """Clock, time server, battery clock."""
    tracking, shown = run("chronyc", "-n", "tracking"), run("timedatectl", "show")
    folder = place.files / "sys/class/rtc"
    rtcs = {name: read(folder / name / "since_epoch") or "" for name in names(folder)}
    board = bool(read(place.files / "proc/device-tree/model"))
    now = time.time()
    return there(
        clocks.clock(now),
        clocks.synchronised(shown.out if shown else "", tracking.out if tracking else ""),
        clocks.battery({name: float(text) for name, text in rtcs.items() if _number(text)}, now, board=board),
    )


def of_system(place: Place) -> list[Finding]:
    """Memory and the service."""
    shown = run("systemctl", "show", "edge-sft.service")
    memory = system.memory(read(place.files / "proc/meminfo") or "", read(place.files / "proc/vmstat") or "")
    return memory + there(system.service(shown.out if shown else ""))


def _gpu_reasons() -> dict[str, str]:
    fields = ",".join(f"clocks_throttle_reasons.{name}" for name in _HOT)
    told = run("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")
    cells = told.out.splitlines()[0].split(",") if told is not None and told.good and told.out.strip() else []
    states = [cell.strip() for cell in cells]
    return dict(zip(_HOT, states, strict=True)) if len(states) == len(_HOT) and "Active" in " ".join(states) else {}


def _zones(folder: Path) -> list[power.Zone]:
    found = []
    for name in names(folder):
        temperature = (read(folder / name / "temp") or "").strip()
        if not name.startswith("thermal_zone") or not _number(temperature):
            continue
        trips = []
        for file in names(folder / name):
            if file.startswith("trip_point_") and file.endswith("_type"):
                limit = (read(folder / name / file.replace("_type", "_temp")) or "").strip()
                if (
                    (read(folder / name / file) or "").strip() == "passive"
                    and _number(limit)
                    and float(limit) > _LOWEST_TRIP
                ):
                    trips.append(float(limit) / 1000)
        kind = (read(folder / name / "type") or name).strip()
        found.append(power.Zone(kind, float(temperature) / 1000, min(trips, default=None)))
    return found


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return bool(text.strip())

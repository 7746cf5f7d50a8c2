"""Checks of power, disk, time, memory and the service, on what real machines said."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from edge_sft.machine.checks import clocks, power, software, storage, system
from edge_sft.machine.checks.power import Zone
from edge_sft.machine.finding import Finding

NANO = """#
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< POWER_MODEL ID=3 NAME=7W >
< PM_CONFIG DEFAULT=1 >
"""
PLAIN = "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >\n"


def checked(finding: Finding | None, health: str, *words: str) -> None:
    assert finding is not None
    assert finding.health == health, finding
    for word in words:
        assert word in f"{finding.fact} {finding.remedy}", finding
    assert finding.health == "good" or finding.remedy


def test_power_modes() -> None:
    checked(power.power_mode("NV Power Mode: MAXN_SUPER\n2\n", NANO), "good", "MAXN_SUPER")
    checked(power.power_mode("NV Power Mode: 15W\n0\n", NANO), "note", "MAXN_SUPER is faster", "nvpmodel -m 2")
    checked(power.power_mode("pmode:0003 fmode:quiet", NANO), "note", "7W; MAXN_SUPER")
    checked(power.power_mode("NV Power Mode: 7W\n1\n", PLAIN), "note", "nvpmodel -m 0 (15W)")
    checked(power.power_mode("NV Power Mode: 15W\n0\n", PLAIN), "note", "not MAXN")
    checked(power.power_mode("NV Power Mode: MODE_30W\n2\n", "< POWER_MODEL ID=0 NAME=MAXN >"), "note", "-m 0")
    assert power.power_mode("", "") is None
    assert power.power_mode("pmode:0009", NANO) is None


def test_governors() -> None:
    checked(power.governor(["schedutil\n"] * 6), "good", "schedutil")
    checked(power.governor(["powersave\n", "performance\n"]), "note", "performance, powersave", "cpupower")
    assert power.governor([]) is None


def test_heat() -> None:
    checked(power.heat([Zone("cpu-thermal", 52.3, 99.0), Zone("tj-thermal", 53.0)]), "good", "53 °C")
    checked(power.heat([Zone("gpu-thermal", 93.0, 99.0)]), "note", "93 °C at gpu-thermal")
    checked(power.heat([Zone("x86_pkg_temp", 101.0, 100.0)]), "bad", "slowed down now")
    assert power.heat([Zone("cv0-thermal", -256.0)]) is None
    assert power.heat([]) is None


def test_throttling() -> None:
    checked(power.throttled("0", [], {}), "good")
    checked(power.throttled("50005", [], {}), "bad", "now: too low a voltage, slowed down")
    checked(power.throttled("throttled=0x50000", [], {}), "note", "since the start")
    checked(power.throttled("", ["0\n", "17\n", "x"], {}), "note", "17 times")
    checked(power.throttled("", ["0"], {"hw_thermal_slowdown": "Active"}), "bad", "hw_thermal_slowdown")
    checked(power.throttled("", [], {"hw_thermal_slowdown": "Not Active"}), "good")
    assert power.throttled("", [], {}) is None


MOUNTS = """sysfs /sys sysfs rw,nosuid 0 0
/dev/mmcblk0p1 / ext4 rw,relatime 0 0
/dev/nvme0n1p2 /var/lib/edge-sft ext4 ro,relatime,errors=remount-ro 0 0
/dev/sda1 /media/usb\\040stick vfat rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "device", "disk"),
    [
        ("/home/x", "/dev/mmcblk0p1", "mmcblk0"),
        ("/", "/dev/mmcblk0p1", "mmcblk0"),
        ("/var/lib/edge-sft/pipelines", "/dev/nvme0n1p2", "nvme0n1"),
        ("/var/lib/edge-sft2", "/dev/mmcblk0p1", "mmcblk0"),
        ("/media/usb stick/a", "/dev/sda1", "sda"),
    ],
)
def test_which_disk_a_folder_lies_on(path: str, device: str, disk: str) -> None:
    mount = storage.mount_of(MOUNTS, PurePosixPath(path))
    assert mount is not None
    assert mount.device == device
    assert storage.disk_of(mount.device) == disk


def test_a_disk_that_cannot_be_written() -> None:
    broken = storage.mount_of(MOUNTS, PurePosixPath("/var/lib/edge-sft"))
    checked(storage.writable(broken, may_write=False, user="me"), "bad", "mounted read-only", "fsck")
    fine = storage.mount_of(MOUNTS, PurePosixPath("/home"))
    checked(storage.writable(fine, may_write=False, user="me"), "bad", "may not be written by 'me'")
    assert storage.writable(fine, may_write=True, user="me") is None
    assert storage.writable(None, may_write=True, user="me") is None
    assert storage.mount_of("", PurePosixPath("/")) is None


def test_room() -> None:
    checked(storage.space(150_000_000, "/x"), "bad", "150 MB")
    checked(storage.space(900_000_000, "/x"), "note")
    checked(storage.space(64_000_000_000, "/x"), "good", "64,000 MB free under /x")


NVME = """Smart Log for NVME device:nvme0n1 namespace-id:ffffffff
critical_warning\t\t\t: 0
temperature\t\t\t\t: 41 °C (314 K)
available_spare\t\t\t\t: 100%
available_spare_threshold\t\t: 10%
percentage_used\t\t\t\t: 3%
"""


def test_the_life_of_disks() -> None:
    checked(storage.emmc_life("0x01 0x01\n", "0x01\n", "mmcblk0"), "good", "up to 10 %")
    checked(storage.emmc_life("0x02 0x08\n", "0x01\n", "mmcblk0"), "note", "up to 80 %")
    checked(storage.emmc_life("0x02 0x02\n", "0x02\n", "mmcblk0"), "note")
    checked(storage.emmc_life("0x02 0x02\n", "0x03\n", "mmcblk0"), "bad")
    checked(storage.emmc_life("0x0B 0x01\n", "0x01\n", "mmcblk0"), "bad", "more than all")
    assert storage.emmc_life("0x00 0x00\n", "0x00\n", "mmcblk0") is None
    assert storage.emmc_life("", "", "mmcblk0") is None
    checked(storage.nvme_life(NVME, "nvme0n1"), "good", "3 %", "100 % spare")
    checked(storage.nvme_life(NVME.replace(": 3%", ": 91%"), "nvme0n1"), "note", "91 %")
    checked(storage.nvme_life('{"critical_warning":4,"avail_spare":5,"percent_used":104}', "nvme0n1"), "bad", "104 %")
    checked(storage.nvme_life("critical_warning : 0x4\npercentage_used : 7%", "nvme0n1"), "bad")
    checked(storage.nvme_life("Permission denied", "nvme0n1"), "note", "sudo nvme smart-log /dev/nvme0n1")
    checked(storage.sd_card("SD\n", "mmcblk1"), "note", "SD card")
    assert storage.sd_card("MMC\n", "mmcblk0") is None


TIMEDATECTL = "Timezone=Etc/UTC\nLocalRTC=no\nCanNTP=yes\nNTP=yes\nNTPSynchronized=yes\n"
CHRONY = """Reference ID    : C0A80001 (192.168.0.1)
Stratum         : 3
System time     : 0.000412345 seconds fast of NTP time
Leap status     : Normal
"""


def test_time() -> None:
    checked(clocks.clock(3600.0), "bad", "in the past")
    checked(clocks.clock(clocks.RELEASED_S + 1), "good")
    checked(clocks.synchronised(TIMEDATECTL, ""), "good")
    checked(clocks.synchronised(TIMEDATECTL.replace("zed=yes", "zed=no"), ""), "note", "no time server answers")
    off = TIMEDATECTL.replace("zed=yes", "zed=no").replace("NTP=yes", "NTP=no")
    checked(clocks.synchronised(off, ""), "note", "no time service runs")
    checked(clocks.synchronised("", CHRONY), "good", "0.4 ms off")
    checked(clocks.synchronised(TIMEDATECTL, CHRONY.replace("Normal", "Not synchronised")), "note", "chrony")
    assert clocks.synchronised("System has not been booted with systemd as init system", "") is None


def test_the_battery_clock() -> None:
    now = 1_800_000_000.0
    checked(clocks.battery({"rtc0": now - 2, "rtc1": 100.0}, now, board=True), "good", "rtc0")
    checked(clocks.battery({"rtc0": 1234.0}, now, board=True), "note", "battery is empty")
    checked(clocks.battery({"rtc0": now - 7200}, now, board=False), "note", "7,200 s apart", "hwclock")
    checked(clocks.battery({}, now, board=True), "note", "after a power cut")
    assert clocks.battery({}, now, board=False) is None


def test_memory() -> None:
    def of(free: int, swap: int = 0, left: int = 0, killed: int = 0) -> list[Finding]:
        text = f"MemTotal: 7802420 kB\nMemAvailable: {free * 1024} kB\nSwapTotal: {swap * 1024} kB\n"
        return system.memory(text + f"SwapFree: {left * 1024} kB\n", f"pgfault 12\noom_kill {killed}\n")

    checked(of(4000)[0], "good", "no swap")
    checked(of(4000, 3800, 1000)[0], "note", "swap 2,800 of 3,800 MB used")
    checked(of(800)[0], "note")
    checked(of(100)[0], "bad")
    checked(of(4000, killed=2)[1], "note", "2 times")
    assert system.memory("", "") == []


def test_the_service() -> None:
    def of(**told: str) -> Finding | None:
        return system.service("".join(f"{key}={value}\n" for key, value in {"LoadState": "loaded", **told}.items()))

    checked(of(ActiveState="active", SubState="running", NRestarts="0", UnitFileState="enabled"), "good")
    checked(of(ActiveState="active", SubState="running", NRestarts="4", UnitFileState="enabled"), "note", "4 times")
    checked(of(ActiveState="active", SubState="running", UnitFileState="disabled"), "note", "enable")
    checked(of(ActiveState="inactive", SubState="dead"), "note", "systemctl start")
    checked(of(ActiveState="failed", Result="watchdog", NRestarts="5"), "bad", "watchdog", "journalctl")
    checked(of(ActiveState="activating", SubState="auto-restart", Result="exit-code"), "bad")
    assert of(LoadState="not-found") is None
    assert system.service("") is None


def test_software() -> None:
    assert software.python((3, 10, 12), "0.1.0", "linux").health == "good"
    checked(software.python((3, 8, 10), "0.1.0", "linux"), "bad", "3.10")
    both = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
    checked(software.onnx_runtime(both, (), ""), "bad", "both installed", "uninstall")
    checked(software.onnx_runtime({}, (), ""), "bad", "not installed")
    checked(software.onnx_runtime({"onnxruntime": "1.32.0"}, (), "Illegal instruction"), "bad", "Illegal")
    checked(software.onnx_runtime({"onnxruntime": "1.32.0"}, ("CPUExecutionProvider",), ""), "good", "CPUExec")
    checked(software.opencv("", "ImportError: libGL.so.1: cannot open shared object file", ""), "bad", "headless")
    checked(software.opencv("", "ImportError: numpy.core.multiarray failed to import", ""), "bad", "numpy<2")
    checked(software.opencv("", "ModuleNotFoundError: No module named 'cv2'", ""), "note", "edge-sft[vision]")
    checked(software.opencv("", "ImportError: libX.so: no", ""), "bad", "libX.so")
    checked(software.opencv("4.8.0", "", "  Video I/O:\n    GStreamer:  YES (1.20.3)\n"), "good", "with GStreamer")
    checked(software.opencv("5.0.0", "", "    GStreamer:                   NO\n"), "good", "without GStreamer")
    checked(software.training(None), "note")
    checked(software.training("2.14.1"), "good")

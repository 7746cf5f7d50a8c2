from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from edge_sft.machine.finding import Finding
from edge_sft.machine.gathering import hardware, plant, programs
from edge_sft.machine.gathering.place import Place
from edge_sft.machine.looking import CHECKS, look_over


def test_a_check_that_hangs_or_breaks_is_a_finding(tmp_path: Path) -> None:
    never = threading.Event()

    def hangs(place: Place) -> list[Finding]:
        never.wait(60)
        return []

    def breaks(place: Place) -> list[Finding]:
        raise RuntimeError("a machine nobody thought of")

    def works(place: Place) -> list[Finding]:
        return [Finding("good", "third", str(place.root))]

    found = look_over(Place(tmp_path), {"first": hangs, "second": breaks, "third": works}, limit_s=0.5)
    never.set()
    assert [(finding.health, finding.thing) for finding in found] == [
        ("bad", "first"),
        ("note", "second"),
        ("good", "third"),
    ]
    assert "0.5 s" in found[0].fact
    assert "RuntimeError: a machine nobody thought of" in found[1].fact


def test_here(tmp_path: Path) -> None:
    found = look_over(Place(tmp_path / "not" / "there" / "yet"))
    assert {"versions", "ONNX Runtime", "OpenCV", "disk", "clock"} <= {finding.thing for finding in found}
    assert all(finding.remedy or finding.health == "good" for finding in found)
    assert not [finding for finding in found if "could not be looked at" in finding.fact]


def test_a_machine_without_proc_sys_or_a_single_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = look_over(Place(tmp_path, files=tmp_path / "empty"), {name: CHECKS[name] for name in CHECKS})
    assert not [finding for finding in found if "could not be looked at" in finding.fact]


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A Jetson's files; its slots lie on an SD card."""
    root = tmp_path / "root"
    for path, content in {
        "proc/mounts": "/dev/mmcblk1p1 / ext4 rw,relatime 0 0\n",
        "proc/meminfo": "MemTotal: 7802420 kB\nMemAvailable: 4802420 kB\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "sys/block/mmcblk1/device/type": "SD\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "sys/devices/system/cpu/cpufreq/nothing": "",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "50250\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_type": "critical\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_temp": "104500\n",
        "sys/class/thermal/thermal_zone0/trip_point_1_type": "passive\n",
        "sys/class/thermal/thermal_zone0/trip_point_1_temp": "99000\n",
        "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
        "sys/class/rtc/rtc0/since_epoch": "12345\n",
        "sys/class/video4linux/video0/name": "HD Pro Webcam C920\n",
        "sys/class/video4linux/video0/index": "0\n",
        "sys/class/video4linux/video1/name": "HD Pro Webcam C920\n",
        "sys/class/video4linux/video1/index": "1\n",
        "dev/video0": "",
        "var/lib/nvpmodel/status": "pmode:0000 fmode:quiet",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return root


def test_the_files_of_a_board(board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    place = Place(tmp_path, files=board)
    power = {finding.thing: finding for finding in hardware.of_power(place)}
    assert "MAXN_SUPER is faster" in power["power mode"].fact
    assert power["heat"].fact == "50 °C at cpu-thermal; clocks go down at 99 °C"
    assert power["CPU governor"].fact == "schedutil"
    assert "SD card" in [finding.fact for finding in hardware.of_disk(place)][-1]
    assert "1970" in hardware.of_clock(place)[-1].fact
    assert [finding.fact for finding in plant.of_cameras(place)] == ["/dev/video0 HD Pro Webcam C920"]


def test_files_of_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("rubbish")
    found = plant.of_certificates(Place(tmp_path, ca_file=tmp_path / "ca.pem", cert_file=tmp_path / "none.pem"))
    assert [finding.health for finding in found] == ["bad", "bad"]
    assert "none.pem" in found[0].fact


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_key_that_others_may_read(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("secret")
    key.chmod(0o644)
    assert "may be read by other users" in plant.of_certificates(Place(tmp_path, key_file=key))[0].fact
    key.chmod(0o600)
    assert plant.of_certificates(Place(tmp_path, key_file=key)) == []


@pytest.mark.parametrize(
    ("broker", "word"),
    [("127.0.0.1:1", "cannot be reached"), ("127.0.0.1:x", "HOST:PORT"), ("no.such.host.invalid", "no")],
)
def test_broker_that_is_not_there(tmp_path: Path, broker: str, word: str) -> None:
    finding = plant.of_broker(Place(tmp_path, broker))[0]
    assert finding.health == "bad"
    assert word in finding.fact


def test_broker_that_is_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert plant.of_broker(Place(tmp_path, f"127.0.0.1:{server.getsockname()[1]}"))[0].health == "good"
    assert plant.of_broker(Place(tmp_path)) == []


def test_installed_packages_are_named_with_dashes() -> None:
    assert programs.installed()["pydantic-core"]

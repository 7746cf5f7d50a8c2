from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edge_sft import profile as profiles
from edge_sft.cli import deploy, devices
from edge_sft.machine import reading
from edge_sft.machine.facts import Gpu, Library, MachineFacts

NANO = MachineFacts(
    "aarch64",
    memory_mb=7619,
    board="NVIDIA Jetson Orin Nano Developer Kit",
    jetson_linux="36.4.3",
    jetpack="6.2",
    gpus=(Gpu("Orin (nvgpu)", "8.7", None, "540.4.0"),),
    libraries={"tensorrt": Library("10.3.0")},
)
BLIND = replace(NANO, libraries={"tensorrt": Library(problem="No module named 'tensorrt'")})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[MachineFacts]:
    here = [NANO]
    monkeypatch.setattr(reading, "look", lambda **_: here[0])
    return here


def test_the_list_marks_what_fits(machine: list[MachineFacts], capsys: pytest.CaptureFixture[str]) -> None:
    devices.list_profiles()
    lines = {line[3:].split()[0]: line for line in capsys.readouterr().out.splitlines() if line[3:].strip()}
    assert lines["jetson-orin-nano-jp6"].startswith("** jetson-orin-nano-jp6  tensorrt")
    assert lines["arm64-cpu"].startswith("*  arm64-cpu             onnxruntime cpu   int8-cpu, fp32")
    assert lines["x86-cpu"].startswith("   ")
    assert len(lines) == len(profiles.shipped()) + 1


def test_near_misses_say_why(machine: list[MachineFacts], capsys: pytest.CaptureFixture[str]) -> None:
    machine[0] = BLIND
    devices.match(everything=False, as_json=False)
    told = capsys.readouterr().out
    assert "jetson-orin-nano-jp6  nearly" in told
    assert "No module named 'tensorrt'" in told
    assert "arm64-cpu  fits" in told
    assert "x86-cpu" not in told
    devices.match(everything=True, as_json=False)
    assert "x86-cpu  no" in capsys.readouterr().out


def test_json(machine: list[MachineFacts], capsys: pytest.CaptureFixture[str]) -> None:
    devices.match(everything=False, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["machine"]["jetpack"] == "6.2"
    assert told["machine"]["gpus"][0]["compute_capability"] == "8.7"
    first = told["profiles"][0]
    assert (first["name"], first["fits"], first["against"]) == ("jetson-orin-nano-jp6", True, [])
    assert len(told["profiles"]) == len(profiles.shipped())


@pytest.mark.parametrize("name", sorted(profiles.shipped()))
def test_everything_is_shown_on_80_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    devices.show(name)
    told = capsys.readouterr().out
    assert "budget p95" in told
    assert "camera usb" in told
    assert f"edge-sft wheelhouse --profile {name}" in told
    assert max(map(len, told.splitlines())) <= 80


def test_auto_takes_the_best_and_says_what_it_could_not_take(
    machine: list[MachineFacts], capsys: pytest.CaptureFixture[str]
) -> None:
    assert deploy.profile_named("auto").name == "jetson-orin-nano-jp6"
    assert not capsys.readouterr().err
    machine[0] = BLIND
    assert deploy.profile_named("auto").name == "arm64-cpu"
    told = capsys.readouterr()
    assert "jetson-orin-nano-jp6 would fit, but" in told.err
    assert not told.out


def test_a_file_of_one_s_own_is_taken_as_it_is() -> None:
    shipped = profiles.shipped()["x86-cpu"]
    assert deploy.profile_named(str(shipped)).name == "x86-cpu"

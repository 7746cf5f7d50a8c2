"""Which profile a device that sent its own words is expected to match, once its wheelhouse is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_sft import profile as profiles
from edge_sft.deploy.remote.device.hardware import texts
from edge_sft.errors import UserError
from edge_sft.machine import telling
from edge_sft.machine.reading import look

SHIPPED = [profiles.load(name) for name in profiles.shipped()]
MEMORY = "MemTotal: 7990000 kB\n"
ORIN = {
    "meminfo": MEMORY,
    "model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
    "nvidia_smi": "Orin (nvgpu), 8.7, [N/A], 540.4.0\n",
}
PC = {"meminfo": "MemTotal: 32000000 kB\n", "cpuinfo": "model name : A PC\nflags : fpu avx2 avx512_vnni\n"}


@pytest.mark.parametrize(
    ("machine", "told", "name"),
    [
        ("aarch64", {**ORIN, "tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1"}, "jetson-orin-nano-jp6"),
        ("aarch64", {**ORIN, "tegra_release": "# R35 (release), REVISION: 4.1, GCID: 1"}, "arm64-cpu"),
        ("x86_64", {**PC, "nvidia_smi": "NVIDIA GeForce RTX 4070, 8.9, 12282, 580.65.06\n"}, "x86-rtx-ada"),
        ("x86_64", {**PC, "nvidia_smi": "NVIDIA L4, 8.9, 23034, 580.65.06\n"}, "x86-cuda"),
        ("x86_64", PC, "x86-cpu-vnni"),
        ("AMD64", {}, "x86-cpu"),
    ],
)
def test_the_profile_is_chosen_by_what_the_device_says(machine: str, told: dict[str, str], name: str) -> None:
    assert telling.expected(telling.facts_of(machine, told), SHIPPED).profile.name == name


def test_an_unknown_processor_is_said() -> None:
    with pytest.raises(UserError, match="riscv64"):
        telling.expected(telling.facts_of("riscv64", {}), SHIPPED)


def test_a_device_says_of_itself_what_is_seen_on_it() -> None:
    here = look(with_libraries=False)
    told = telling.facts_of(here.architecture, texts())
    seen = (here.cpu_flags, here.memory_mb, here.board, here.jetpack, here.cpu)
    assert (told.cpu_flags, told.memory_mb, told.board, told.jetpack, told.cpu or here.cpu) == seen


def test_a_driver_that_hangs_or_is_not_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_sft.deploy.remote.device import hardware

    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(hardware, "_SMI", [str(program)])
    monkeypatch.setattr(hardware, "_LIMIT_S", 0.2)
    assert texts(tmp_path)["nvidia_smi"] == ""
    monkeypatch.setattr(hardware, "_SMI", [str(tmp_path / "none")])
    assert texts(tmp_path) == dict.fromkeys(
        ("cpuinfo", "meminfo", "tegra_release", "model", "compatible", "nvidia_smi"), ""
    )

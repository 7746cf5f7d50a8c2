from __future__ import annotations

import pytest

from edge_sft.machine import facts
from edge_sft.machine.jetson import jetpack, jetpack_version, jetson_linux

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: 12th Gen Intel(R) Core(TM) i7-12700
flags\t\t: fpu vme sse4_2 avx2 avx_vnni serialize

processor\t: 1
model name\t: another
flags\t\t: none
"""
ORIN = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp uscat
CPU implementer\t: 0x41
CPU part\t: 0xd42
"""


def test_a_processor_s_name_and_flags() -> None:
    assert facts.cpu(X86) == (
        "12th Gen Intel(R) Core(TM) i7-12700",
        {"fpu", "vme", "sse4_2", "avx2", "avx_vnni", "serialize"},
    )
    name, flags = facts.cpu(ORIN)
    assert not name
    assert "asimddp" in flags
    assert facts.cpu("") == ("", frozenset())


def test_memory() -> None:
    text = "MemTotal:        7802420 kB\nMemFree:          123 kB\nMemAvailable:    5242880 kB\n"
    assert facts.memory_mb(text) == 7619
    assert facts.memory_mb(text, "MemAvailable") == 5120
    assert facts.memory_mb("") == 0


def test_a_device_tree() -> None:
    assert facts.device_tree("NVIDIA Jetson AGX Orin Developer Kit\0") == ("NVIDIA Jetson AGX Orin Developer Kit",)
    compatible = "nvidia,p3768-0000+p3767-0003-super\0nvidia,p3767-0003\0nvidia,tegra234\0"
    assert facts.device_tree(compatible)[1] == "nvidia,p3767-0003"


@pytest.mark.parametrize(
    ("line", "gpu"),
    [
        (
            "NVIDIA GeForce RTX 4090, 8.9, 24564, 550.54.14",
            facts.Gpu("NVIDIA GeForce RTX 4090", "8.9", 24564, "550.54.14"),
        ),
        ("NVIDIA H200, 9.0, 143771, 580.65.06", facts.Gpu("NVIDIA H200", "9.0", 143771, "580.65.06")),
        ("NVIDIA Thor, 11.0, [N/A], 580.00", facts.Gpu("NVIDIA Thor", "11.0", None, "580.00")),
        ("Orin (nvgpu), 8.7, [N/A], 540.4.0", facts.Gpu("Orin (nvgpu)", "8.7", None, "540.4.0")),
        ("Orin (nvgpu), [N/A], [N/A], [N/A]", facts.Gpu("Orin (nvgpu)", "", None)),
    ],
)
def test_what_nvidia_smi_says(line: str, gpu: facts.Gpu) -> None:
    assert facts.gpus(f"{line}\n") == (gpu,)


def test_what_is_no_table_is_no_gpu() -> None:
    assert facts.gpus("No devices were found\n") == ()
    assert facts.gpus("") == ()


@pytest.mark.parametrize(
    ("release", "linux", "version"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64", "36.4.3", "6.2"),
        ("# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, EABI: aarch64", "36.4.4", "6.2.1"),
        ("# R36 (release), REVISION: 5.0, GCID: 43688277, BOARD: generic, EABI: aarch64", "36.5.0", "6.2.2"),
        ("# R38 (release), REVISION: 2.1, GCID: 42061081, BOARD: generic, EABI: aarch64", "38.2.1", "7.0"),
        ("# R38 (release), REVISION: 4.0, GCID: 43443517, BOARD: generic, EABI: aarch64", "38.4.0", "7.1"),
        ("# R39 (release), REVISION: 2.0, GCID: 45755727, BOARD: generic, EABI: aarch64", "39.2.0", "7.2"),
        ("# R39 (release), REVISION: 2.1, BOARD: generic", "39.2.1", "7.2.1"),
        ("# R36 (release), REVISION: 9.9, BOARD: generic", "36.9.9", "6"),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64", "35.4.1", "5.1"),
        ("# R99 (release), REVISION: 1.0", "99.1.0", ""),
        ("", "", ""),
    ],
)
def test_which_jetpack_a_jetson_linux_is(release: str, linux: str, version: str) -> None:
    assert jetson_linux(release) == linux
    assert jetpack_version(linux) == version
    pack = jetpack(linux)
    assert pack is None or pack.version.startswith(version)

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_sft import profile as profiles
from edge_sft.errors import UserError
from edge_sft.machine.facts import Gpu, Library, MachineFacts
from edge_sft.machine.matching import Match, best, match, passed_over

SHIPPED = [profiles.load(name) for name in profiles.shipped()]
TRT, RTX, CUDA = (
    {"tensorrt": Library("10.3.0")},
    {"tensorrt_rtx": Library("1.7.1")},
    {"onnxruntime-cuda": Library("1.31.1")},
)
PC = MachineFacts("x86_64", memory_mb=32000, cpu_flags=frozenset({"avx2"}))
VNNI = replace(PC, cpu_flags=frozenset({"avx2", "avx_vnni"}))
AMX = replace(PC, cpu_flags=frozenset({"avx512_vnni", "amx_int8", "amx_tile"}))
ORIN = Gpu("Orin (nvgpu)", "8.7", None, "540.4.0")
NANO = MachineFacts(
    "aarch64",
    memory_mb=7619,
    board="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    compatible=("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
    jetson_linux="36.4.3",
    jetpack="6.2",
    gpus=(ORIN,),
    libraries=TRT,
)
NX = replace(NANO, board="NVIDIA Jetson Orin NX Engineering Reference Developer Kit", compatible=(), memory_mb=15656)
AGX = replace(NX, board="NVIDIA Jetson AGX Orin Developer Kit", memory_mb=62841)
THOR = replace(
    AGX,
    board="NVIDIA Jetson AGX Thor Developer Kit",
    memory_mb=125772,
    jetson_linux="38.2.1",
    jetpack="7.0",
    gpus=(Gpu("NVIDIA Thor", "11.0", None, "580.00"),),
    libraries={"tensorrt": Library("10.13.3.9")},
)


def with_gpu(name: str, capability: str, memory: int, **libraries: Library) -> MachineFacts:
    named = {key.replace("onnxruntime_cuda", "onnxruntime-cuda"): value for key, value in libraries.items()}
    return replace(VNNI, gpus=(Gpu(name, capability, memory, "580.65.06"),), libraries=named)


def of(facts: MachineFacts, name: str) -> Match:
    return next(item for item in match(facts, SHIPPED) if item.profile.name == name)


ALL = {"tensorrt": Library("10.13.3"), "tensorrt_rtx": Library("1.7.1"), "onnxruntime_cuda": Library("1.31.1")}


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (PC, "x86-cpu"),
        (VNNI, "x86-cpu-vnni"),
        (AMX, "x86-cpu-amx"),
        (MachineFacts("aarch64", memory_mb=4000, board="Raspberry Pi 5 Model B Rev 1.0"), "arm64-cpu"),
        (NANO, "jetson-orin-nano-jp6"),
        (replace(NANO, jetpack="7.2", jetson_linux="39.2.0"), "jetson-orin-nano-jp7"),
        (replace(NANO, board="A carrier board of another maker"), "jetson-orin-nano-jp6"),
        (NX, "jetson-orin-nx-jp6"),
        (AGX, "jetson-agx-orin-jp6"),
        (replace(AGX, jetpack="7.2.1"), "jetson-agx-orin-jp7"),
        (THOR, "jetson-thor-jp7"),
        (with_gpu("NVIDIA GeForce RTX 3060", "8.6", 12288, **ALL), "x86-rtx-ampere"),
        (with_gpu("NVIDIA RTX A2000 12GB", "8.6", 12282, **ALL), "x86-rtx-ampere"),
        (with_gpu("NVIDIA RTX 4000 Ada Generation", "8.9", 20475, **ALL), "x86-rtx-ada"),
        (with_gpu("NVIDIA GeForce RTX 5090", "12.0", 32607, **ALL), "x86-rtx-blackwell"),
        (with_gpu("NVIDIA A2", "8.6", 15356, **ALL), "dc-a2"),
        (with_gpu("NVIDIA L4", "8.9", 23034, **ALL), "dc-l4"),
        (with_gpu("NVIDIA H200", "9.0", 143771, **ALL), "dc-h200"),
        (
            with_gpu("NVIDIA L4", "8.9", 23034, **{**ALL, "tensorrt": Library(problem="No module named 'tensorrt'")}),
            "x86-cuda",
        ),
        (with_gpu("Tesla T4", "7.5", 15360, **ALL), "x86-cuda"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_best_profile(facts: MachineFacts, name: str) -> None:
    assert best(facts, SHIPPED).profile.name == name
    assert passed_over(facts, SHIPPED) == []


def test_a_jetson_whose_environment_does_not_see_tensorrt() -> None:
    facts = replace(NANO, libraries={"tensorrt": Library(problem="No module named 'tensorrt'")})
    assert best(facts, SHIPPED).profile.name == "arm64-cpu"
    nano = of(facts, "jetson-orin-nano-jp6")
    assert nano.near
    assert len(nano.reasons_against) == 1
    assert "No module named 'tensorrt'" in nano.reasons_against[0]
    assert "--system-site-packages" in nano.reasons_against[0]
    assert passed_over(facts, SHIPPED)[0].startswith("jetson-orin-nano-jp6 would fit, but tensorrt cannot be used")


def test_the_same_board_with_another_jetpack_is_a_near_miss() -> None:
    seven = of(NANO, "jetson-orin-nano-jp7")
    assert seven.near
    assert seven.reasons_against == ("is for JetPack 7; JetPack 6.2",)
    unknown = of(replace(NANO, jetpack="", jetson_linux="99.1"), "jetson-orin-nano-jp7")
    assert "Jetson Linux 99.1 is not known" in unknown.reasons_against[0]


def test_an_old_tensorrt_is_against_it() -> None:
    old = of(replace(NANO, jetpack="6.0", libraries={"tensorrt": Library("8.6.2")}), "jetson-orin-nano-jp6")
    assert old.reasons_against == ("tensorrt 8.6.2 is older than 10.3",)


def test_a_jetson_in_a_container_without_the_runtime_of_nvidia() -> None:
    facts = replace(NANO, gpus=(), gpu_problem="libcuda.so.1 is not here", libraries={})
    assert best(facts, SHIPPED).profile.name == "arm64-cpu"
    assert "libcuda.so.1 is not here" in of(facts, "jetson-orin-nano-jp6").reasons_against[0]
    assert passed_over(facts, SHIPPED) == [
        "its NVIDIA GPU cannot be used (libcuda.so.1 is not here); see edge-sft doctor"
    ]


def test_too_little_memory() -> None:
    small = of(replace(NANO, memory_mb=3620), "jetson-orin-nano-jp6")
    assert not small.fits
    assert "needs 8 GB; it has 3.5 GB" in small.reasons_against[0]


def test_the_driver_of_a_pc_that_does_not_answer() -> None:
    facts = replace(VNNI, gpu_problem="Driver/library version mismatch")
    assert best(facts, SHIPPED).profile.name == "x86-cpu-vnni"
    assert "version mismatch" in passed_over(facts, SHIPPED)[0]


def test_a_name_is_a_whole_word() -> None:
    assert not of(with_gpu("NVIDIA RTX A2000", "8.6", 12282, **ALL), "dc-a2").fits
    assert not of(with_gpu("NVIDIA L40S", "8.9", 46068, **ALL), "dc-l4").fits


def test_no_profile_at_all() -> None:
    with pytest.raises(UserError, match="Choose one with --profile"):
        best(MachineFacts("riscv64"), SHIPPED)


def test_a_profile_of_one_s_own_is_ranked_like_the_others() -> None:
    own = SHIPPED[0].model_copy(update={"name": "press-7", "architecture": "x86_64"})
    assert of(PC, "x86-cpu").fits
    assert {item.profile.name for item in match(PC, [*SHIPPED, own]) if item.fits} == {"x86-cpu", "press-7"}

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_sft import profile as profiles
from edge_sft.errors import UserError


@pytest.mark.parametrize("name", sorted(profiles.shipped()))
def test_every_shipped_profile_loads_under_its_name(name: str) -> None:
    profile = profiles.load(name)
    assert profile.name == name
    assert "fp32" in profile.variants


@pytest.mark.parametrize(
    ("machine", "name"),
    [("x86_64", "x86-cpu"), ("AMD64", "x86-cpu"), ("aarch64", "arm64-cpu"), ("arm64", "arm64-cpu")],
)
def test_a_profile_runs_whatever_the_system_calls_its_processor(machine: str, name: str) -> None:
    profiles.check_runs_on(profiles.load(name), machine)


def test_a_profile_for_another_processor_is_refused() -> None:
    with pytest.raises(UserError, match="this machine is aarch64"):
        profiles.check_runs_on(profiles.load("x86-cpu"), "arm64")


def test_threads_leave_one_core_to_the_cameras() -> None:
    profile = profiles.load("x86-cpu")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert profiles.usable_threads(profile) == max(1, cores - 1)
    assert profiles.usable_threads(profile.model_copy(update={"threads": 3})) == 3


def test_a_profile_of_one_s_own_and_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "press-7.toml"
    text = 'name = "press-7"\ntitle = "Press 7"\nvariants = ["fp32"]\n[budgets]\nlatency_p95_ms = 40\nmemory_mb = 300\n'
    path.write_text(text)
    assert profiles.load(str(path)).budgets.latency_p95_ms == 40
    path.write_text(text.replace("memory_mb", "memroy_mb") + "threads = -1\n")
    with pytest.raises(UserError, match="memory_mb"):
        profiles.load(str(path))
    with pytest.raises(UserError, match="Known: "):
        profiles.load("press-7")


@pytest.mark.parametrize("name", sorted(profiles.shipped()))
def test_a_shipped_profile_is_whole(name: str) -> None:
    profile = profiles.load(name)
    assert profile.cameras
    assert profile.install.extras
    assert profile.install.platforms[0] == profile.install.wheels
    assert profile.install.wheels.endswith(profile.architecture)
    assert (profile.accelerator is not None) == (profile.provider == "cuda")
    assert ("int8-trt" in profile.variants) == profile.engine.startswith("tensorrt")
    if name.startswith("jetson"):
        assert profile.install.tensorrt == "system"
        assert profile.match.board
        assert profile.match.jetpack
        assert profile.power_modes[0].name.startswith("MAXN")
        assert "never" in " ".join(profile.install.notes)


def test_wheel_platforms_are_spelt_out() -> None:
    tags = profiles.Install(wheels="manylinux_2_17_aarch64").platforms
    assert tags[:2] == ("manylinux_2_17_aarch64", "manylinux_2_16_aarch64")
    assert tags[-2:] == ("manylinux2014_aarch64", "linux_aarch64")
    assert profiles.Install().platforms == ()


def test_what_an_older_file_leaves_out_has_defaults(tmp_path: Path) -> None:
    path = tmp_path / "old.toml"
    path.write_text(
        'name = "old"\ntitle = "Old"\nvariants = ["fp32"]\n[budgets]\nlatency_p95_ms = 40\nmemory_mb = 300\n'
    )
    old = profiles.load(str(path))
    assert (old.power_modes, old.cameras, old.accelerator, old.fall_back) == ((), (), None, False)
    assert old.match == profiles.Hardware()
    path.write_text(path.read_text() + '[install]\npython = "310"\n[[cameras]]\nkind = "cis"\n')
    with pytest.raises(UserError, match="2 problems"):
        profiles.load(str(path))

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edge_sft.machine import asking, libraries, reading
from edge_sft.machine.asking import Told

pytestmark = pytest.mark.skipif(os.name != "posix", reason="programs are made as shell scripts")


def make_program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for path, content in {
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\n",
        "proc/meminfo": "MemTotal:        7802420 kB\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        "dev/nvhost-gpu": "",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return root


def test_a_program_that_hangs_is_given_up_with_all_that_it_started(programs: Path) -> None:
    make_program(programs, "hangs", "sleep 200 & echo begun; sleep 200")  # beyond the limit of a test
    assert asking.run("hangs", limit_s=0.3) == Told(None, "", "did not answer within 0.3 s")


def test_what_programs_say(programs: Path) -> None:
    make_program(programs, "speaks", "echo one; echo two >&2; exit 3")
    told = asking.run("speaks")
    assert told is not None
    assert (told.status, told.good, told.last) == (3, False, "two")
    make_program(programs, "bytes", r"printf '\377\376'")
    assert asking.run("bytes") is not None
    assert asking.run("not-installed-at-all") is None


def test_reading_never_raises(tmp_path: Path) -> None:
    assert asking.read(tmp_path / "nothing") is None
    assert asking.read(tmp_path) is None
    assert asking.names(tmp_path / "nothing") == []


def test_the_facts_of_a_jetson(jetson: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_program(programs, "nvidia-smi", 'echo "Orin (nvgpu), 8.7, [N/A], 540.4.0"')
    monkeypatch.setattr(reading, "load_all", dict)
    facts = reading.look(root=jetson)
    assert facts.board.startswith("NVIDIA Jetson Orin Nano")
    assert facts.compatible[-1] == "nvidia,tegra234"
    assert (facts.jetson_linux, facts.jetpack, facts.memory_mb) == ("36.4.3", "6.2", 7619)
    assert facts.gpus[0].memory_mb is None
    assert "JetPack 6.2 (Jetson Linux 36.4.3)" in facts.title


def test_a_gpu_that_is_there_but_does_not_answer(jetson: Path, programs: Path) -> None:
    words = "Failed to initialize NVML: Driver/library version mismatch"
    make_program(programs, "nvidia-smi", f'echo "{words}"; exit 18')
    found, problem = reading.from_driver(asking.run("nvidia-smi"), None)
    assert not found
    assert problem == f"nvidia-smi: {words}"


def test_the_driver_is_asked_where_nvidia_smi_is_missing() -> None:
    found, problem = reading.from_driver(None, Told(0, "Orin,8.7,7619,540.4.0\n", ""))
    assert found[0].compute_capability == "8.7"
    assert not problem
    assert reading.from_driver(None, Told(1, "", "Traceback\nDeviceError: no libcuda.so.1")) == (
        (),
        "DeviceError: no libcuda.so.1",
    )


def test_a_machine_with_nothing_of_nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = reading.look(root=tmp_path)
    assert (facts.gpus, facts.gpu_problem, facts.memory_mb, facts.board) == ((), "", 0, "")


def test_why_a_library_does_not_load() -> None:
    assert libraries.library(Told(0, "noise\n10.3.0\n", "")).version == "10.3.0"
    missing = libraries.library(Told(1, "", "Traceback …\nModuleNotFoundError: No module named 'tensorrt'\n"))
    assert missing.problem == "No module named 'tensorrt'"
    assert libraries.library(Told(-11, "", "")).problem == "crashed while loading"
    assert "20 s" in libraries.library(Told(None, "", "did not answer within 20 s")).problem


def test_the_real_libraries_of_this_machine() -> None:
    found = libraries.load_all()
    assert set(found) == {"tensorrt", "tensorrt_rtx", "onnxruntime-cuda"}
    for library in found.values():
        assert bool(library.version) != bool(library.problem)


def test_a_process_does_not_take_modules_from_the_folder_it_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("__version__ = 'not the real one'\n")
    monkeypatch.chdir(tmp_path)
    assert sys.executable
    assert libraries.load_all()["tensorrt"].version != "not the real one"

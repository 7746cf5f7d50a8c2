"""A cache that went wrong: nothing of it reaches the library, the engine is built anew, and one line says why."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_sft.engines.plans import PlanCache
from edge_sft.engines.protocol import EngineInfo, Workplace, open_engine


class Device:
    """Two models and a cache."""

    def __init__(self, folder: Path, small: ModuleType, seal: Any, library: ModuleType) -> None:
        self.small, self.library = small, library
        self.models = [folder / f"{seed}.onnx" for seed in range(2)]
        for seed, path in enumerate(self.models):
            path.write_bytes(small.graph(seed=seed))
        self.cache = PlanCache(folder / "engines", seal)

    def open(self, number: int = 0) -> EngineInfo:
        profile = self.small.profile(engine="tensorrt")
        with open_engine(self.models[number], profile, Workplace(self.cache)) as engine:
            return engine.info

    def plan(self, number: int = 0) -> Path:
        """Build a model's engine; returns its file."""
        before = set(self.cache.directory.glob("*.plan"))
        self.open(number)
        [made] = set(self.cache.directory.glob("*.plan")) - before
        return made

    def renews(self, *words: str) -> None:
        """Open: the engine is built anew for one of these reasons, said in one line, and then it is there."""
        self.library.deserialized.clear()
        info = self.open()
        assert info.plan == "built"
        [note] = info.notes
        assert any(each in note for each in words), note
        assert "\n" not in note
        assert len(self.library.deserialized) == 1  # the new one alone
        assert self.open().plan == "cached"


@pytest.fixture
def device(tmp_path: Path, small: ModuleType, seal: Any, nvidia: ModuleType) -> Device:
    return Device(tmp_path, small, seal, nvidia)


def test_a_plan_cut_anywhere(device: Device) -> None:
    path = device.plan()
    whole = path.read_bytes()
    lines = [len(b"\n".join(whole.split(b"\n")[:count])) for count in (1, 2, 3)]
    for size in (0, 5, *lines, *(each + 1 for each in lines), *(each + 20 for each in lines), len(whole) - 1):
        path.write_bytes(whole[:size])
        device.renews("damaged", "was not sealed by this device, or was changed")


def test_plans_swapped_between_two_models(device: Device) -> None:
    one, other = device.plan(0), device.plan(1)
    one.write_bytes(other.read_bytes())
    device.renews("was built of another model")


def test_the_plan_of_another_gpu_under_this_one_s_name(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    here = device.plan()
    with monkeypatch.context() as there:
        there.setenv("FAKE_CUDA_NAME", "Another GPU")
        other = device.plan()
    here.write_bytes(other.read_bytes())
    device.renews("was built for GPU Another GPU, this is Pretended GPU")


def test_the_engine_of_another_version_of_the_library(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(device.library, "__version__", "10.7.0")
        device.plan()
    device.renews("was built for tensorrt version 10.7.0, this is 10.3.0")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_something_else_in_its_place_is_not_waited_for(device: Device, make: Any) -> None:
    path = device.plan()
    path.unlink()
    make(path)
    assert "it is no file" in device.open().notes[0]


def test_a_clock_set_back_or_forth_makes_no_engine_stale(device: Device) -> None:
    path = device.plan()
    for moment in (time.time() + 10 * 365 * 86_400, 0):
        os.utime(path, (moment, moment))
        info = device.open()
        assert (info.plan, info.notes) == ("cached", ())

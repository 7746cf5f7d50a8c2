from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_sft.errors import BundleRefused, DeviceError
from edge_sft.runtime.config import PipelineSection
from edge_sft.runtime.crew import Post
from edge_sft.runtime.sources.iterator import IteratorSource
from edge_sft.runtime.swap import SlotLoader, Swapper

FRAME = np.zeros((4, 4), np.uint8)


def endless() -> Any:
    while True:
        yield FRAME


def test_a_swap_falls_between_two_samples_and_drops_none(
    make_line: Callable[..., Any], fakes: Any, eventually: Callable[..., Any]
) -> None:
    first = [fakes.Model(1, infer_s=0.003), fakes.Model(1, infer_s=0.001)]
    line = make_line(IteratorSource(endless(), "main", rate=300), fakes.Loader(*first), workers=2, threads=2)
    crews = [first]
    for version in range(2, 8):
        eventually(lambda version=version: line.out and line.out[-1].model.version == f"{version - 1}.0.0")
        crews.append([fakes.Model(version, infer_s=0.002), fakes.Model(version)])
        line.loader.deploy(*crews[-1])
    eventually(lambda: line.out[-1].model.version == "7.0.0")
    line.pipeline.stop(5)
    assert [int(name) for name in line.names()] == list(range(1, len(line.out) + 1))
    versions = [int(one.model.version[0]) for one in line.out]
    assert versions == sorted(versions)
    assert all(model.closed for crew in crews for model in crew)
    assert line.kinds() == ["deployed"] + ["swapped"] * 6


def test_a_failed_load_leaves_the_old_one_and_is_told_once(fakes: Any) -> None:
    told: list[tuple[str, str]] = []
    now = [0.0]
    loader, post = fakes.Loader(fakes.Model(1)), Post()
    swapper = Swapper(loader, post, lambda kind, detail: told.append((kind, detail)), clock=lambda: now[0])
    swapper.step()
    loader.error = BundleRefused("slot b", "is damaged", "Deploy again.")
    loader.deploy(fakes.Model(2))
    for _ in range(5):
        swapper.step()
    assert loader.loads == 2
    assert post.crew is not None
    assert post.crew.model.version == "1.0.0"
    assert [kind for kind, _ in told] == ["deployed", "swap_refused"]
    assert "slot b: is damaged" in told[1][1]
    assert "fake 1.0.0 goes on" in told[1][1]
    assert "damaged" in swapper.trouble
    now[0] += 20  # what was wrong may have been mended meanwhile: memory, rights
    loader.error = None
    swapper.step()
    assert post.crew.model.version == "2.0.0"
    assert swapper.trouble == ""


def test_the_old_one_is_closed_after_its_last_sample(
    make_line: Callable[..., Any], fakes: Any, eventually: Callable[..., Any]
) -> None:
    old = fakes.Model(1)
    old.gate = threading.Event()
    line = make_line(IteratorSource([FRAME] * 3, "main"), fakes.Loader(old))
    eventually(lambda: old.at_work)
    line.loader.deploy(fakes.Model(2))
    eventually(lambda: line.pipeline.post.crew.model.version == "2.0.0")
    time.sleep(0.1)
    assert not old.closed
    old.gate.set()
    eventually(lambda: old.closed)
    eventually(lambda: len(line.out) == 3)


def test_slots_are_verified_warmed_and_counted(tmp_path: Path, deploy: Callable[..., Any], small: ModuleType) -> None:
    deploy(tmp_path)
    told: list[tuple[str, str]] = []
    section = PipelineSection.model_validate({"source": {"kind": "files", "path": "."}, "threads": 3, "workers": 2})
    loader = SlotLoader(tmp_path, section, lambda kind, detail: told.append((kind, detail)))
    assert loader.generation() == 1
    crew = loader.load(1, None)
    assert len(crew) == 2
    assert [one.engine.threads for one in crew._all] == [2, 1]
    assert crew.model.name == "small"
    crew.close()
    onnx = next((tmp_path / "pipelines" / "main" / "a").glob("*.onnx"))
    content = bytearray(onnx.read_bytes())
    content[len(content) // 2] ^= 1
    onnx.chmod(0o644)
    onnx.write_bytes(content)
    with pytest.raises(BundleRefused, match="SHA-256"):
        loader.load(1, None)
    deploy(tmp_path, seed=1)
    loader.load(2, None).close()
    assert told == []


def test_another_profile_or_no_room_is_refused(
    tmp_path: Path, deploy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_sft.runtime import swap

    deploy(tmp_path)
    fields = {"source": {"kind": "files", "path": "."}, "profile": "jetson"}
    other = SlotLoader(tmp_path, PipelineSection.model_validate(fields), lambda kind, detail: None)
    with pytest.raises(DeviceError, match="proved for the profile 'test-pc'"):
        other.load(1, None)
    fields["profile"] = "test-pc"
    loader = SlotLoader(tmp_path, PipelineSection.model_validate(fields), lambda kind, detail: None)
    monkeypatch.setattr(swap, "available_mb", lambda: -1.0)
    with pytest.raises(DeviceError, match="memory are free"):
        loader.load(1, None)
    monkeypatch.undo()
    crew = loader.load(1, None)
    crew.memory_mb = 1e6
    with pytest.raises(DeviceError, match="allows"):
        loader.load(1, crew)
    crew.close()

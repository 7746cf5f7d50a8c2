"""The bare loop beside a built engine; NVIDIA's library and driver are pretended."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_sft.deploy.bench import bench
from edge_sft.deploy.bench_bare import open_bare
from edge_sft.deploy.bench_bare_nvidia import NvidiaLoop
from edge_sft.deploy.bench_run import BenchRequest
from edge_sft.engines.protocol import open_engine
from edge_sft.errors import DeviceError
from edge_sft.slots.opening import read_policy
from edge_sft.slots.store import SlotStore, read_manifest


@pytest.fixture
def model(small: ModuleType, tmp_path: Path) -> Path:
    path = tmp_path / "fp32.onnx"
    path.write_bytes(small.graph())
    return path


def test_the_bare_loop_runs_the_same_engine_and_gives_its_numbers(jetson: Any, small: ModuleType, model: Path) -> None:
    images = small.pictures(2, 16)
    with open_engine(model, jetson.profile()) as engine:
        loop = open_bare(model, engine)({"image": images[:1]})
        assert isinstance(loop, NvidiaLoop)
        assert loop._context.engine is engine._engine  # type: ignore[attr-defined]
        for _ in range(2):
            loop()
        got = loop.output("probabilities", np.float32).reshape(1, 3).copy()
        np.testing.assert_array_equal(got, engine.infer({"image": images[:1]})["probabilities"])


def test_a_batch_that_the_engine_was_not_built_for_has_no_bare_loop(
    jetson: Any, small: ModuleType, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorrt  # the pretended one

    with open_engine(model, jetson.profile()) as engine:
        monkeypatch.setattr(tensorrt.Context, "set_input_shape", lambda self, name, shape: shape[0] == 1)
        with pytest.raises(DeviceError, match=r"takes no 'image' of \(2, 16, 16, 3\) at once"):
            open_bare(model, engine)({"image": small.pictures(2, 16)})


def test_bench_times_a_built_engine_beside_its_bare_loop(jetson: Any) -> None:
    proof = jetson.deploy(jetson.bundle())
    slot = SlotStore(jetson.root).verified()
    request = BenchRequest(
        slot=slot.path, profile=proof.profile, policy=read_policy(slot.policy_path), variants=("fp16",), seconds=0.05
    )
    report = bench(request, read_manifest(slot.path), slot.digest)
    assert [row.path for row in report.timings] == ["jpeg", "frame", "engine", "bare"]
    engine = report.timing("fp16", "engine")
    assert engine is not None
    assert engine.of_bare is not None
    assert (report.variants[0].plan, report.variants[0].provider) == ("cached", "TensorRT")
    assert not any("bare loop" in note for note in report.notes)

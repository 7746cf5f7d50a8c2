from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edge_sft.errors import BugError
from edge_sft.models.sensors.registry import build
from edge_sft.models.sensors.regressor import Interval
from edge_sft.preprocess import Channel, Windowing
from edge_sft.task import window_regression

WINDOWING = Windowing(channels=tuple(Channel(name=name) for name in ("a", "b", "c")), period_s=1, length=20, age=True)
TASK = window_regression(20, 4, (0.05, 0.95), "h")
CONFIG = {
    "architecture": "mlp",
    "cap": 125.0,
    "width": 8,
    "members": 3,
    "knots": 9,
    "statistics": ["last", "mean:5", "slope:20"],
    "normalise": {"channels": 4, "conditions": [0], "clusters": 2},
}


ARCHITECTURES = pytest.mark.parametrize(("architecture", "members"), [("mlp", 3), ("tcn", 2), ("mlp+tcn", 4)])


@ARCHITECTURES
def test_it_takes_the_tasks_inputs_and_gives_its_outputs(architecture: str, members: int):
    module = build(TASK, WINDOWING, {**CONFIG, "architecture": architecture, "members": members}).eval()
    assert len(module.members.nets) == members
    value, quantiles = module(torch.randn(5, 20, 4), torch.ones(5, 20, 4))
    assert value.shape == (5,)
    assert quantiles.shape == (5, 2)
    assert ((value >= 0) & (value <= 125)).all()
    nothing = torch.zeros(2, 20, 4)
    assert all(torch.isfinite(out).all() for out in module(nothing, nothing))


def test_the_interval_interpolates_between_knots_and_stays_within_the_cap():
    interval = Interval(2, 9, 125.0)
    rng = np.random.default_rng(0)
    offsets = np.stack([-rng.random(9) * 20, rng.random(9) * 20])
    interval.offsets.copy_(torch.from_numpy(offsets))
    value = np.linspace(0, 125, 300)
    got = interval(torch.from_numpy(value).float()).numpy()
    want = np.stack([value + np.interp(value, np.linspace(0, 125, 9), row) for row in offsets], axis=1)
    assert got == pytest.approx(want.clip(0, 125), abs=1e-3)


def test_what_is_no_sensor_model_is_refused():
    with pytest.raises(BugError, match="has no sensor model"):
        build(TASK.model_copy(update={"modality": "image"}), WINDOWING, CONFIG)


@ARCHITECTURES
def test_the_graph_has_only_what_every_runtime_takes(architecture: str, members: int, tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    from edge_sft.export.onnx_from_checkpoint import export_fp32

    module = build(TASK, WINDOWING, {**CONFIG, "architecture": architecture, "members": members}).eval()
    with torch.no_grad():
        module.front.normalise.centres.copy_(torch.tensor([[-1.0], [1.0]]))
    path = export_fp32(module, TASK, tmp_path)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert not kinds & {"NonZero", "ScatterND", "GatherND", "Loop", "If"}
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    window = rng.normal(size=(9, 20, 4)).astype(np.float32)
    valid = (rng.random(window.shape) < 0.8).astype(np.float32)
    window *= valid
    names = [item.name for item in session.get_inputs()]
    got = session.run(None, dict(zip(names, (window, valid), strict=True)))
    want = [out.detach().numpy() for out in module(torch.from_numpy(window), torch.from_numpy(valid))]
    for ours, theirs in zip(want, got, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-4 * 125

"""The classifier's graph: what torch says, ONNX Runtime says, and NVIDIA's parser takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from edge_sft.models.sensors.classifier import STATISTICS, FaultClassifier, sharpened
from edge_sft.models.sensors.normalise import Normaliser
from edge_sft.models.sensors.registry import build
from edge_sft.models.sensors.views import NAMES
from edge_sft.preprocess import Channel, Windowing
from edge_sft.task import window_classification

LENGTH = 512
WINDOWING = Windowing(
    channels=(Channel(name="a"), Channel(name="b"), Channel(name="n", unit="rpm")), period_s=1 / 6000, length=LENGTH
)
TASK = window_classification(("fine", "inner", "outer"), ("fine",), LENGTH, 3)


def classifier() -> FaultClassifier:
    torch.manual_seed(0)
    config = {
        "views": [*NAMES, STATISTICS],
        "orders": [0.4, 3.58],
        "width": 8,
        "members": 2,
        "dropout": 0.1,
        "normalise": Normaliser(3).config,
        "statistics": ["mean", "std"],
    }
    module = build(TASK, WINDOWING, config)
    assert isinstance(module, FaultClassifier)
    module.temperature.fill_(0.05)  # untrained nets say nearly the same of everything
    return module.eval()


def windows(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(n, LENGTH, 3, generator=draw) * torch.logspace(-2, 2, n)[:, None, None]
    x[..., 2] = 3000 + 500 * torch.rand(n, 1, generator=draw)
    valid = (torch.rand(n, LENGTH, 3, generator=draw) > 0.1).float()
    valid[0, :, 2] = 0  # no speed
    valid[-1, :, 1] = 0  # a dead channel
    return x * valid, valid


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edge_sft.export.onnx_from_checkpoint import export_fp32

    return export_fp32(classifier(), TASK, tmp_path_factory.mktemp("onnx"), windows(2))


@pytest.mark.parametrize("n", [1, 3, 17])
def test_onnx_runtime_says_what_torch_says(exported: Path, n: int) -> None:
    x, valid = windows(n)
    with torch.no_grad():
        (wanted,) = classifier()(x, valid)
    session = ort.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (said,) = session.run(["probabilities"], {"window": x.numpy(), "valid": valid.numpy()})
    np.testing.assert_allclose(said, wanted, atol=1e-4)
    np.testing.assert_allclose(said.sum(1), 1, atol=1e-5)


def test_the_file_is_small(exported: Path) -> None:
    assert exported.stat().st_size < 2e6


def test_nvidias_parser_takes_it(exported: Path) -> None:
    reason = "tensorrt_rtx is not installed: that NVIDIA's parser takes fault classifiers is not proved"
    rtx: Any = pytest.importorskip("tensorrt_rtx", reason=reason)
    builder = rtx.Builder(rtx.Logger(rtx.Logger.ERROR))
    network = builder.create_network(0)
    parser = rtx.OnnxParser(network, rtx.Logger(rtx.Logger.ERROR))
    taken = parser.parse(exported.read_bytes())
    assert taken, [str(parser.get_error(index)) for index in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for index in range(network.num_inputs):
        value = network.get_input(index)
        profile.set_shape(value.name, *[[batch, *list(value.shape)[1:]] for batch in (1, 1, 4)])
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
    del parser  # only now: the network uses the parser's memory


def test_a_state_dict_holds_what_was_learnt_and_no_tables() -> None:
    names = set(classifier().state_dict())
    assert {"temperature", "fronts.eyes.usual", "heads.0.mean"} <= names
    assert not any("dft" in name or "orders" in name for name in names)


def test_a_temperature_sharpens_and_keeps_the_order() -> None:
    said = torch.tensor([[0.5, 0.3, 0.2]])
    sharp = sharpened(said, torch.tensor([0.5]))
    torch.testing.assert_close(sharp, (said**2) / (said**2).sum(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sharpened(said, torch.ones(1)), said, atol=1e-5, rtol=1e-4)

"""The picture's way to the first INT8 layer gets shorter, and no output changes by a bit."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime as ort
import pytest

from edge_sft.export import graph, onnx_from_checkpoint, picture_codes, quantize, ranges
from edge_sft.progress import Silent
from edge_sft.task import image_classification

SIDE = 16
LITE, IMAGENET = ((127.0,) * 3, (128.0,) * 3), ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def _exported(torch: ModuleType, mean: tuple[float, ...], std: tuple[float, ...], out: Path) -> Path:
    from edge_sft.models.classifier import Backbone, Classifier, GlobalAverage

    torch.manual_seed(0)
    stage = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU6(), torch.nn.Conv2d(8, 8, 3))
    module = Classifier(Backbone(torch.nn.ModuleList([stage]), GlobalAverage(), 8, mean, std), 2)
    whole = torch.nn.Sequential(module, torch.nn.Softmax(dim=1))
    return onnx_from_checkpoint.export_fp32(whole, image_classification(("a", "b"), ("a",), SIDE, SIDE), out)


def _said(path: Path, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": images})[0])


@pytest.mark.parametrize(
    ("normalisation", "before"),
    [pytest.param(LITE, ["Transpose"], id="lite"), pytest.param(IMAGENET, ["Cast", "Sub", "Div"], id="imagenet")],
)
def test_the_way_is_shorter_and_the_answers_are_the_same_bits(
    torch: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    before: list[str],
) -> None:
    random = np.random.default_rng(0)
    images = random.integers(20, 200, (24, SIDE, SIDE, 3)).astype(np.uint8)  # no picture shows the whole range
    fp32 = _exported(torch, *normalisation, tmp_path)
    prepared = quantize.prepare(fp32)
    seen = ranges.observe(prepared, (image[None] for image in images), len(images), Silent())
    chosen = ranges.ranges(seen, "minmax")
    short = quantize.save(quantize.quantized(prepared, chosen, "int8-cpu", ()), "int8-cpu", tmp_path)
    monkeypatch.setattr(picture_codes, "shorten", lambda model: None)
    long = graph.save(quantize.quantized(prepared, chosen, "int8-cpu", ()), tmp_path / "long.onnx")

    extremes = random.integers(0, 256, (8, SIDE, SIDE, 3)).astype(np.uint8)
    np.testing.assert_array_equal(_said(short, extremes), _said(long, extremes))
    np.testing.assert_allclose(_said(short, extremes), _said(fp32, extremes), atol=0.02)
    import onnx

    nodes = [node for node in onnx.load(short).graph.node if node.op_type != "DequantizeLinear"]
    assert [node.op_type for node in nodes[: len(before)]] == before
    assert len(onnx.load(short).graph.node) <= len(onnx.load(long).graph.node)


def test_other_beginnings_are_left_alone(torch: ModuleType, tmp_path: Path) -> None:
    import onnx

    fp32 = _exported(torch, *LITE, tmp_path)
    model = onnx.load(fp32)
    divide = next(node for node in model.graph.node if node.op_type == "Div")
    divide.op_type = "Mul"
    before = model.SerializeToString(deterministic=True)
    picture_codes.shorten(model)
    assert model.SerializeToString(deterministic=True) == before
    assert picture_codes.with_whole_range(model, {"x": (0.0, 1.0)}) == {"x": (0.0, 1.0)}

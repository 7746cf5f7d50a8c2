"""Every model family of the project, untrained, as the variants that NVIDIA's parsers get.

Operators, types, sizes and build times do not depend on what was learnt, and torchvision's and timm's published weights
are not to be had offline. Quantization ranges come from random input, so the numbers these files give mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edge_sft.export import half, quantize, ranges
from edge_sft.export.onnx_from_checkpoint import export_fp32
from edge_sft.export.sensors import front
from edge_sft.models import registry
from edge_sft.models.classifier import Backbone, Classifier, GlobalAverage
from edge_sft.models.sensors import normalise
from edge_sft.models.sensors import registry as sensors
from edge_sft.models.sensors.classifier import STATISTICS as WINDOW_STATISTICS
from edge_sft.models.sensors.views import NAMES as VIEWS
from edge_sft.preprocess import Channel, Windowing
from edge_sft.progress import Silent
from edge_sft.slots.memories import rows_for
from edge_sft.task import Task, image_classification, window_anomaly, window_classification, window_regression

Files = dict[str, "Path | str"]  # a file, or why there is none
LABELS = ("good", "scratch", "stain")
CHANNELS = 3
_SHOWN = 2  # windows or pictures that ranges are taken from


@dataclass(frozen=True)
class Family:
    """One family: ``make`` writes its variants into a folder."""

    name: str
    make: Callable[[Path], Files]


class _Probabilities(nn.Module):
    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, image: Tensor) -> Tensor:
        return torch.softmax(self.classifier(image) / 1.1, dim=1)


def picture_families(size: int) -> Iterator[Family]:
    """Yield every backbone that the registry names, and three of timm, whole."""
    timm = ("timm/resnet10t", "timm/mobilenetv4_conv_small", "timm/vit_tiny_patch16_224")
    for name in (*registry.ENTRIES, *timm):
        yield Family(name, lambda out, name=name: pictures(classifier(name), size, out))


def cut_families(size: int) -> Iterator[Family]:
    """Yield the beginnings of the registry's backbones: every kind of block that they hold, in seconds."""
    for name, stages in CUTS.items():
        yield Family(name, lambda out, name=name, stages=stages: pictures(cut(name, stages), size, out))
    yield Family("timm/resnet10t", lambda out: pictures(classifier("timm/resnet10t"), size, out))


# Which stages hold every kind of block of a network; resnet50 and the larger nets of a kind hold the same kinds.
CUTS = {
    "efficientnet_lite0": (0, 1, 2),
    "mobilenet_v3_small": (0, 1, 4),
    "resnet18": (0, 1),
    "efficientnet_b0": (0, 1),
    "convnext_tiny": (0, 2),
}


def classifier(name: str) -> Classifier:
    """Build an untrained classifier by the registry's name."""
    torch.manual_seed(0)
    entry = registry.resolve(name)
    return Classifier(registry._module(entry).build(entry.name), len(LABELS))


def cut(name: str, stages: tuple[int, ...]) -> Classifier:
    """Build one of some stages, each made to fit the one before it by a 1 × 1 convolution, and a plain average."""
    torch.manual_seed(0)
    entry = registry.resolve(name)
    whole = registry._module(entry).build(entry.name)
    kept: list[nn.Module] = []
    width = 3
    for place in stages:
        stage = whole.stages[place]
        first = next(layer for layer in stage.modules() if isinstance(layer, nn.Conv2d) or _channels(layer))
        wanted = _channels(first) or first.in_channels  # type: ignore[union-attr]
        kept += [] if wanted == width else [nn.Conv2d(width, int(wanted), 1)]
        kept.append(stage[:1] if isinstance(stage, nn.Sequential) and place else stage)
        with torch.inference_mode():
            width = kept[-1].eval()(torch.zeros(1, int(wanted), 16, 16)).shape[1]
    taps = (len(kept) - 1,) if whole.taps else ()  # features of a tap are means and deviations
    width *= 2 if taps else 1
    backbone = Backbone(nn.ModuleList(kept), GlobalAverage(), width, whole.mean, whole.std, taps)
    return Classifier(backbone, len(LABELS))


def _channels(layer: nn.Module) -> int | None:
    return layer.normalized_shape[0] if isinstance(layer, nn.LayerNorm) else None


def pictures(network: nn.Module, size: int, out: Path) -> Files:
    """Write the variants of a classifier of pictures."""
    task = image_classification(LABELS, ("good",), size, size)
    fp32 = export_fp32(_Probabilities(network.eval()), task, out)
    random = np.random.default_rng(0)
    shown = [random.integers(0, 256, (1, size, size, 3)).astype(np.uint8) for _ in range(_SHOWN)]
    prepared = quantize.prepare(fp32)
    found = ranges.ranges(ranges.observe(prepared, shown, len(shown), Silent()), "minmax")
    int8 = quantize.save(quantize.quantized(prepared, found, "int8-trt", ()), "int8-trt", out)
    return {"fp32": fp32, "fp16": half.export_fp16(fp32, out), "int8-trt": int8}


def sensor_families(length: int = 16, wave: int = 512) -> Iterator[Family]:
    """Yield every kind of sensor model: remaining life, faults, anomaly."""
    for architecture, members in (("mlp", 2), ("tcn", 2), ("mlp+tcn", 2)):
        for clusters in (1, 3):
            by = " by operating condition" if clusters > 1 else ""
            yield Family(f"remaining life {architecture}{by}", _life(architecture, members, clusters, length))
    yield Family("faults: all views", _faults((*VIEWS, WINDOW_STATISTICS), wave))
    for view in (*VIEWS, WINDOW_STATISTICS):
        yield Family(f"faults: {view}", _faults((view,), wave))
    for name, method in (("bank", "neighbours"), ("bank", "core-set"), ("t2q", "components"), ("encoder", "core-set")):
        yield Family(f"anomaly {name}: {method}", _anomaly(name, method, length))


def _life(architecture: str, members: int, clusters: int, length: int) -> Callable[[Path], Files]:
    def make(out: Path) -> Files:
        config = {
            "architecture": architecture, "cap": 125.0, "width": 16, "members": members, "knots": 9,
            "statistics": ["last", "mean:5", f"slope:{length}"],
            "normalise": {"channels": CHANNELS + 1, "conditions": [0] if clusters > 1 else [], "clusters": clusters},
        }  # fmt: skip
        windowing = _windowing(length, age=True)
        task = window_regression(length, CHANNELS + 1, (0.05, 0.95), "h")
        return windows(sensors.build(task, windowing, config), task, {}, out)

    return make


def _faults(views: tuple[str, ...], length: int) -> Callable[[Path], Files]:
    def make(out: Path) -> Files:
        config = {
            "views": list(views), "orders": [0.4, 3.58], "width": 16, "members": 2, "dropout": 0.1,
            "normalise": normalise.Normaliser(CHANNELS).config, "statistics": ["mean", "std"],
        }  # fmt: skip
        task = window_classification(LABELS, ("good",), length, CHANNELS)
        windowing = _windowing(length, period_s=1 / 6000, speed=True)
        return windows(sensors.build(task, windowing, config), task, {}, out)

    return make


def _anomaly(name: str, method: Any, length: int) -> Callable[[Path], Files]:
    def make(out: Path) -> Files:
        embedding = 4
        width = (3 + embedding if name == "encoder" else 3) * CHANNELS
        rows = rows_for(method, width, 40)
        config = {"architecture": name, "neighbours": 5, "clip": 30.0, "sharp": False, "embedding": embedding}
        config |= {"shape": 0.5, "usual": [1.0] * CHANNELS}
        task = window_anomaly(length, CHANNELS, (rows, width))
        random = np.random.default_rng(1)
        local = {"mean": np.zeros(CHANNELS), "std": np.ones(CHANNELS), "bank": random.standard_normal((rows, width))}
        return windows(sensors.build(task, _windowing(length), config), task, local, out)

    return make


def _windowing(length: int, *, period_s: float = 1.0, speed: bool = False, age: bool = False) -> Windowing:
    last = Channel(name="n", unit="rpm") if speed else Channel(name="c")
    channels = (Channel(name="a"), Channel(name="b"), last)
    return Windowing(channels=channels, period_s=period_s, length=length, age=age)


def windows(module: nn.Module, task: Task, local: dict[str, Any], out: Path) -> Files:
    """Write the variants of a sensor model, by the road of `edge_sft.export.sensors.variants` without its gates."""
    torch.manual_seed(0)
    shape = (2, *task.inputs[0].shape[1:])
    given = {"window": torch.randn(shape), "valid": torch.ones(shape)}
    given |= {name: torch.from_numpy(np.asarray(array, dtype=np.float32)) for name, array in local.items()}
    examples = tuple(given[spec.name] for spec in task.inputs)
    fp32 = export_fp32(module.eval(), task, out, examples)
    prepared = quantize.prepare(fp32)
    blocks = [
        {name: array.numpy()[row : row + 1] if name in ("window", "valid") else array.numpy()
         for name, array in given.items()}
        for row in range(_SHOWN)
    ]  # fmt: skip
    seen = ranges.observe(prepared, blocks, _SHOWN, Silent())
    fronts = list(front.fronts(prepared, seen))
    if not fronts:
        why = "no layer after the raw units"
        return {"fp32": fp32, "fp16": why, "int8-trt": why}
    copy = onnx.ModelProto()
    copy.CopyFrom(prepared)
    files: Files = {"fp32": fp32, "fp16": half.save(copy, fronts[0], out), "int8-trt": _NO_WEIGHTS}
    never = front.never_int8(prepared, fronts[0])
    if front.layer_names(prepared):
        files["int8-trt"] = "all of it but the last layer needs float32"
        if set(quantize.layers(prepared)) - never:
            made = quantize.quantized(prepared, ranges.ranges(seen, "minmax"), "int8-trt", never)
            files["int8-trt"] = quantize.save(made, "int8-trt", out)
    return files


_NO_WEIGHTS = "it has no weights: what it multiplies with is the machine's memory"


def of_folder(folder: Path) -> Files:
    """Return the variants that an `edge-sft export` left, and its gates' reasons for those that it did not."""
    gates = {gate["variant"]: gate for gate in json.loads((folder / "gates.json").read_bytes())["gates"]}
    kinds = ("fp32", "fp16", "int8-trt")
    return {kind: folder / f"{kind}.onnx" if gates[kind]["passed"] else gates[kind]["note"] for kind in kinds}

"""The graph of a memory: features of a frozen backbone, and how far each place is from good ones.

What is compared with is the ``bank``, made by `edge_sft.slots.picture_memory`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_sft import checkpoint as files
from edge_sft.errors import DataError, UserError
from edge_sft.memory_layout import Layout, top_count
from edge_sft.models.classifier import Backbone
from edge_sft.models.registry import Provenance, build_with_provenance
from edge_sft.recipe import ModelSection

STRIDE = 16  # pixels a cell of the map
# Feature maps between these strides are compared: finer ones are noise, the last stages of a network trained on
# ImageNet have forgotten texture.
_FINEST, _COARSEST = 4, 32
_PROBE = 64


class MemoryDetector(nn.Module):
    """``image`` uint8 [N,H,W,3], ``bank`` float32 [M,D] → ``score`` [N], ``anomaly_map`` [N,h,w], ``features`` [N,P,E].

    Each feature map is averaged over 3 x 3 cells (zeros beyond the border, which damps it there) at its own
    resolution, brought to a cell every 16 pixels, and all are put side by side. Averaging first and then enlarging is
    worth .07 of AUROC on thermal pictures against the other order.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, taps: tuple[int, ...], size: tuple[int, int], layout: Layout) -> None:
        super().__init__()
        self.stages = nn.ModuleList(list(backbone.stages)[: max(taps) + 1])
        self.taps = taps
        self.places = (size[0] // STRIDE, size[1] // STRIDE)
        self.layout = layout
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)

    def features(self, image: Tensor) -> Tensor:
        """Return what is told of each place, [N,P,E]."""
        maps = (image.to(self.mean.dtype).permute(0, 3, 1, 2) - self.mean) / self.std
        told = []
        for index, stage in enumerate(self.stages):
            maps = stage(maps)
            if index in self.taps:
                told.append(self._placed(functional.avg_pool2d(maps, 3, 1, 1)))
        return torch.cat(told, dim=1).flatten(2).transpose(1, 2)

    def compare(self, features: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores [N] and maps [N,P] of features [N,P,E]."""
        sizes = self.layout
        ends = [sizes.features, sizes.places, sizes.places * sizes.width, sizes.examples, 1]
        basis, centres, whitening, examples, scales = torch.split(bank, ends)
        reduced = features @ basis - centres
        white = reduced.transpose(0, 1) @ whitening.view(sizes.places, sizes.width, sizes.width).transpose(1, 2)
        position = white.square().sum(dim=2).sqrt().transpose(0, 1)
        lengths = reduced.square().sum(dim=2, keepdim=True)
        squared = lengths - 2 * (reduced @ examples.t()) + examples.square().sum(dim=1)
        example = squared.amin(dim=2).clamp_min(0).sqrt()
        weights = scales[0, :3]
        count = top_count(sizes.places)
        score = weights[0] * _top_mean(position, count) + weights[1] * _top_mean(example, count)
        return score, (weights[0] * position + weights[1] * example) * weights[2]

    def forward(self, image: Tensor, bank: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return score, map and features."""
        features = self.features(image)
        score, cells = self.compare(features, bank)
        return score, cells.reshape(-1, *self.places), features

    def _placed(self, maps: Tensor) -> Tensor:
        """Bring a feature map to the map's cells: averaged down, bilinear up."""
        height, width = maps.shape[2:]
        if (height, width) == self.places:
            return maps
        if height > self.places[0]:
            factor = height // self.places[0], width // self.places[1]
            return functional.avg_pool2d(maps, factor, factor)
        return functional.interpolate(maps, size=self.places, mode="bilinear", align_corners=False)


def _top_mean(cells: Tensor, count: int) -> Tensor:
    return torch.topk(cells, count, dim=1, sorted=False).values.mean(dim=1)


def build(model: ModelSection, size: tuple[int, int], examples: int) -> tuple[MemoryDetector, Provenance]:
    """Build a detector on a backbone with its pre-trained weights; ``size`` is (height, width).

    Raises:
        UserError: The backbone is unknown, gives no feature maps, or the size is no multiple of 32.
        DataError: The weights are damaged.
    """
    classifier, provenance = build_with_provenance(model, 2, size)
    backbone = Backbone(
        classifier.stages, classifier.pool, 0, _three(classifier.mean), _three(classifier.std), classifier.taps
    )
    return _assembled(backbone, size, examples, model.backbone).eval(), provenance


def load(directory: Path) -> MemoryDetector:
    """Load a checkpoint's detector, in eval mode; the bank is among its scores.

    Raises:
        DataError: No checkpoint, damaged weights, or weights of another network.
    """
    from safetensors.torch import load_file

    meta = files.read_meta(directory)
    bank = next(spec for spec in meta.task.inputs if spec.name == "bank")
    places, features = meta.task.outputs[2].shape[1:]
    width = bank.shape[1]
    examples = bank.shape[0] - 1 - features - places - places * width
    section = ModelSection(backbone=meta.backbone, weights="random")
    detector, _ = build(section, (meta.geometry.height, meta.geometry.width), examples)
    try:
        detector.load_state_dict(load_file(directory / files.WEIGHTS))
    except RuntimeError as error:
        raise DataError(str(directory), f"does not hold a {meta.backbone}", "Train again.") from error
    return detector.eval()


def _assembled(backbone: Backbone, size: tuple[int, int], examples: int, name: str) -> MemoryDetector:
    if size[0] % 32 or size[1] % 32:
        raise UserError(
            f"image.size {list(size)}",
            "is no multiple of 32",
            "Take the nearest one: maps have a cell every 16 pixels.",
        )
    strides, channels = _measured(backbone)
    taps = tuple(index for index, stride in enumerate(strides) if _FINEST <= stride <= _COARSEST)
    last = [index for index in taps if strides[index] == _COARSEST]
    taps = tuple(index for index in taps if index not in last[1:])  # of the coarsest only the first, nearest to texture
    if not taps:
        raise UserError(f"backbone {name}", "tells nothing of places", "Take a convolutional one: efficientnet_lite0.")
    places = (size[0] // STRIDE) * (size[1] // STRIDE)
    layout = Layout.of(sum(channels[index] for index in taps), places, examples)
    return MemoryDetector(backbone, taps, size, layout)


def _measured(backbone: Backbone) -> tuple[list[int], list[int]]:
    """Return each stage's stride (0 where it gives no maps) and channels."""
    maps = torch.zeros(1, 3, _PROBE, _PROBE)
    strides, channels = [], []
    with torch.inference_mode():
        for stage in backbone.stages.eval():
            maps = stage(maps)
            spatial = maps.ndim == 4 and maps.shape[2] > 1
            strides.append(_PROBE // maps.shape[2] if spatial else 0)
            channels.append(int(maps.shape[1]))
    return strides, channels


def _three(values: Tensor) -> tuple[float, float, float]:
    first, second, third = values.flatten().tolist()
    return first, second, third

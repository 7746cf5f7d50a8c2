"""EfficientNet-Lite (Tan & Le 2019; the Lite variant of Google's TPU team): ReLU6, no squeeze-and-excite.

Padding is TensorFlow's SAME, asymmetric at stride 2: the published weights expect it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_sft.models.classifier import Backbone, GlobalAverage

# (expand ratio, kernel, stride, channels, repeats) of Lite0; the table of the paper
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_SCALES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite2": (1.1, 1.2)}  # width, depth
_STEM, _HEAD = 32, 1280  # the Lite family scales neither
_FIRST_TAP = 3


class ConvNorm(nn.Module):
    """Convolution with SAME padding, batch norm, ReLU6 (optional)."""

    def __init__(self, inside: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1, act: bool = True):
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inside, out, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=1e-3)
        self.act: nn.Module = nn.ReLU6() if act else nn.Identity()
        self.fold = False  # see `folded`

    def forward(self, maps: Tensor) -> Tensor:
        """Apply to [N,C,H,W]."""
        if self.conv.stride[0] > 1:
            maps = functional.pad(maps, _same(maps.shape[-2:], self.conv.kernel_size[0], self.conv.stride[0]))
        convolved = self._folded(maps) if self.fold and not self.norm.training else self.norm(self.conv(maps))
        result: Tensor = self.act(convolved)
        return result

    def _folded(self, maps: Tensor) -> Tensor:
        """Do what conv then norm do with fixed statistics, in one pass over the maps; gradients are the same."""
        norm, conv = self.norm, self.conv
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None  # both always are tensors: the norms track statistics
        assert variance is not None
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        weight, bias = conv.weight * scale.view(-1, 1, 1, 1), norm.bias - mean * scale
        return functional.conv2d(maps, weight, bias, conv.stride, conv.padding, groups=conv.groups)


class InvertedResidual(nn.Module):
    """Expand 1×1, depthwise k×k, project 1×1; a shortcut where shapes allow."""

    def __init__(self, inside: int, out: int, *, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        middle = inside * expand
        self.expand: nn.Module = ConvNorm(inside, middle, 1) if expand > 1 else nn.Identity()
        self.depthwise = ConvNorm(middle, middle, kernel, stride=stride, groups=middle)
        self.project = ConvNorm(middle, out, 1, act=False)
        self.shortcut = stride == 1 and inside == out

    def forward(self, maps: Tensor) -> Tensor:
        """Apply to [N,C,H,W]."""
        result: Tensor = self.project(self.depthwise(self.expand(maps)))
        return result + maps if self.shortcut else result


def build(name: str) -> Backbone:
    """Build Lite0 or Lite2 without weights, read at its stages of 1/8 resolution and below (see `Backbone.taps`).

    (x − 127) / 128 is the normalisation its weights were trained with. The last 1×1 convolution, a fifth of the
    weights, made ImageNet's features only and is left out.
    """
    stages, channels = _blocks(name)
    taps = tuple(range(_FIRST_TAP, len(stages)))
    width = 2 * sum(channels[index] for index in taps)
    return Backbone(stages, GlobalAverage(), width, (127.0,) * 3, (128.0,) * 3, taps)


def build_whole(name: str) -> Backbone:
    """Build the published network without weights: average pooling behind the last 1×1 convolution."""
    stages, channels = _blocks(name)
    stages.append(ConvNorm(channels[-1], _HEAD, 1))
    return Backbone(stages, GlobalAverage(), _HEAD, (127.0,) * 3, (128.0,) * 3)


def _blocks(name: str) -> tuple[nn.ModuleList, list[int]]:
    """Return stem and block stages, and the channels that each gives."""
    width, depth = _SCALES[name]
    stages = nn.ModuleList([ConvNorm(3, _STEM, 3, stride=2)])
    inside = _STEM
    channels_out = [inside]
    for index, (expand, kernel, stride, channels, repeats) in enumerate(_STAGES):
        first_or_last = index in (0, len(_STAGES) - 1)
        count = repeats if first_or_last else math.ceil(repeats * depth)
        out = _rounded(channels * width)
        blocks = nn.Sequential()
        for block in range(count):
            blocks.append(InvertedResidual(inside, out, expand=expand, kernel=kernel, stride=1 if block else stride))
            inside = out
        stages.append(blocks)
        channels_out.append(out)
    return stages, channels_out


def renamed(published: dict[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
    """Map the pip packages' keys (``_blocks.3._expand_conv.weight``) to ours (``2.1.expand.conv.weight``).

    Raises:
        KeyError: A tensor is missing from ``published``.
    """
    wanted = backbone.stages.state_dict()
    result = {}
    for ours, theirs_conv, theirs_norm in _names(backbone.stages):
        result[f"{ours}.conv.weight"] = published[f"{theirs_conv}.weight"]
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            result[f"{ours}.norm.{part}"] = published[f"{theirs_norm}.{part}"]
    missing = set(wanted) - set(result)
    if missing:
        raise KeyError(min(missing))
    return result


def _names(stages: nn.ModuleList) -> Iterator[tuple[str, str, str]]:
    """Yield (our ConvNorm, their convolution, their norm) in depth order."""
    yield "0", "_conv_stem", "_bn0"
    number = 0
    for index, stage in enumerate(stages):
        if not isinstance(stage, nn.Sequential):
            continue
        for position, block in enumerate(stage):
            for part, norm in (("expand", 0), ("depthwise", 1), ("project", 2)):
                if isinstance(getattr(block, part), ConvNorm):
                    ours, theirs = f"{index}.{position}.{part}", f"_blocks.{number}"
                    yield ours, f"{theirs}._{part}_conv", f"{theirs}._bn{norm}"
            number += 1
    if isinstance(stages[-1], ConvNorm):
        yield str(len(stages) - 1), "_conv_head", "_bn1"


def _rounded(channels: float) -> int:
    """Round to a multiple of 8, never down by more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _same(size: tuple[int, ...], kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Return TensorFlow's SAME padding as (left, right, top, bottom)."""
    total_h, total_w = (max((-(-int(side) // stride) - 1) * stride + kernel - int(side), 0) for side in size)
    return total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2

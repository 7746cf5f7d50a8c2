"""A backbone's maps of several resolutions, joined in the finest: a light feature pyramid (Lin et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_sft.errors import UserError
from edge_sft.models.efficientnet_lite import ConvNorm

COARSEST = 32
_PROBE = 64  # pixels: every stride up to COARSEST divides it


@dataclass(frozen=True)
class Tap:
    """A stage whose output the pyramid reads: the last one of its stride."""

    stage: int
    stride: int
    channels: int


def taps(stages: nn.ModuleList, finest: int, *, backbone: str) -> tuple[Tap, ...]:
    """Find the last stage of every stride from ``finest`` to 32, finest first.

    Raises:
        UserError: The backbone has no such maps: it is one piece, or its features are no maps.
    """
    found: dict[int, Tap] = {}
    maps = torch.zeros(1, 3, _PROBE, _PROBE)
    with torch.no_grad():
        for index, stage in enumerate(stages):
            try:
                maps = stage(maps)
            except RuntimeError:  # made for one size of picture only
                break
            if not isinstance(maps, Tensor) or maps.dim() != 4:
                break
            stride = _PROBE // maps.shape[-1]
            found[stride] = Tap(index, stride, maps.shape[1])
    wanted = [finest * 2**step for step in range((COARSEST // finest).bit_length())]
    missing = [f"1/{stride}" for stride in wanted if stride not in found]
    if missing:
        raise UserError(
            f"backbone {backbone}",
            f"has no maps of {', '.join(missing)} of the picture's size, which saying where needs",
            "Choose efficientnet_lite0, efficientnet_lite2, mobilenet_v3_large or another known by name.",
        )
    return tuple(found[stride] for stride in wanted)


class Separable(nn.Module):
    """Depthwise 3×3, then 1×1, a shortcut around both: cheap on every processor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = ConvNorm(width, width, 3, groups=width)
        self.project = ConvNorm(width, width, 1, act=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Apply to [N,C,h,w]."""
        result: Tensor = maps + self.project(self.depthwise(maps))
        return result


class Pyramid(nn.Module):
    """From the coarsest map down: each is widened to ``width`` channels, and what is coarser is added to it."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(ConvNorm(inside, width, 1, act=False) for inside in channels)
        self.smooth = nn.ModuleList(Separable(width) for _ in channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn maps, finest first, into one of the finest's size, [N,width,h,w]."""
        result: Tensor | None = None
        for index in reversed(range(len(maps))):
            lateral: Tensor = self.laterals[index](maps[index])
            if result is not None:
                lateral = lateral + doubled(result, lateral.shape[-2], lateral.shape[-1])
            result = self.smooth[index](lateral)
        assert result is not None  # there is at least one map
        return result


def doubled(maps: Tensor, height: int, width: int) -> Tensor:
    """Repeat every cell twice along both sides; cut where the finer map has an odd side."""
    large = functional.interpolate(maps, scale_factor=2.0, mode="nearest")
    return large if large.shape[-2:] == (height, width) else large[:, :, :height, :width]

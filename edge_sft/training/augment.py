"""What may happen to a training picture: one affine warp and one photometric change for a whole batch at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from edge_sft.recipe import AugmentSection


def augment(images: Tensor, how: AugmentSection, generator: torch.Generator, *, rank: int = 0, size: int = 1) -> Tensor:
    """Augment a batch as the recipe allows.

    Args:
        images: uint8 [N,H,W,3] on any device: every ``size``-th picture of the whole batch, from ``rank``.
        how: What is allowed.
        generator: A CPU generator; the same state gives the same augmentation on every device, and (but for
            noise) to every picture whichever process has it.
        rank: This process's number.
        size: Number of processes that share the batch.

    Returns:
        float32 [N,H,W,3] in 0–255, as the model's input takes it.
    """
    maps = images.permute(0, 3, 1, 2).float()
    if _warps(how):
        theta = _affine(len(images) * size, how, generator, maps.shape[-1], maps.shape[-2])
        theta = theta[rank::size].to(maps.device)
        grid = functional.affine_grid(theta, list(maps.shape), align_corners=False)
        maps = functional.grid_sample(maps, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    maps = _photometric(maps, how, generator, rank, size)
    return maps.permute(0, 2, 3, 1)


def _warps(how: AugmentSection) -> bool:
    return bool(how.flip_horizontal or how.flip_vertical or how.rotate_deg or how.shift or how.scale)


def _affine(count: int, how: AugmentSection, generator: torch.Generator, width: int, height: int) -> Tensor:
    """Return [N,2,3] maps from output to input coordinates in [-1, 1].

    Shifts are whole pixels: with flips alone nothing is interpolated, so training pictures stay as sharp as those
    on the line. Blur that only training sees costs accuracy where the defect is texture.
    """
    aspect = width / height
    uniform = torch.rand(6, count, generator=generator)
    signed = uniform * 2 - 1
    angle = signed[0] * math.radians(how.rotate_deg)
    size = 1 + signed[1] * how.scale
    flip_x = torch.where((uniform[2] < 0.5) & torch.tensor(how.flip_horizontal), -1.0, 1.0)
    flip_y = torch.where((uniform[3] < 0.5) & torch.tensor(how.flip_vertical), -1.0, 1.0)
    cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
    # coordinates run from -1 to 1 along both sides, so a rotation must know the aspect ratio
    shift_x, shift_y = (
        torch.round(signed[4 + i] * how.shift * side) * 2 / side for i, side in enumerate((width, height))
    )
    row_x = torch.stack([cos * flip_x, -sin / aspect * flip_x, shift_x], dim=1)
    row_y = torch.stack([sin * aspect * flip_y, cos * flip_y, shift_y], dim=1)
    return torch.stack([row_x, row_y], dim=1)


def _photometric(maps: Tensor, how: AugmentSection, generator: torch.Generator, rank: int, size: int) -> Tensor:
    count = maps.shape[0] * size
    if how.brightness or how.contrast:
        signed = (torch.rand(2, count, 1, 1, 1, generator=generator) * 2 - 1)[:, rank::size].to(maps.device)
        middle = maps.mean(dim=(1, 2, 3), keepdim=True)
        maps = (maps - middle) * (1 + signed[0] * how.contrast) + middle + signed[1] * how.brightness * 127.0
    if how.noise:
        maps = maps + torch.randn(maps.shape, generator=generator).to(maps.device) * (how.noise * 255.0)
    return maps.clamp(0.0, 255.0)

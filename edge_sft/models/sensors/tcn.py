"""A small dilated convolution over time: means of a few steps each, three or four residual layers, one number.

The window is read as at most ``PATCHES`` means of neighbouring steps, so that a few layers see all of it and a graph
stays small. What is not valid is 0 and marked so; a place without anything valid stays 0 through every layer.
Convolutions are 2-D with a height of one, which every runtime takes in INT8.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCHES = 32
_TINY = 1e-6
_KERNEL = 3


class Patches(nn.Module):
    """Normalised window [N,T,C] (0 where not valid) and validity [N,T,C] → features [N,F].

    F = P × channels (patch by patch, newest last) + P shares of values that are valid + lifelong channels' last value.
    """

    weights: Tensor

    def __init__(self, length: int, channels: int, lifelong: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.length = length
        self.lifelong = lifelong
        self.channels = tuple(c for c in range(channels) if c not in lifelong)
        step = math.ceil(length / PATCHES)
        self.patches = math.ceil(length / step)
        ago = torch.arange(length - 1, -1, -1)
        rows = torch.stack([(ago // step == place).float() for place in range(self.patches - 1, -1, -1)])
        self.register_buffer("weights", rows, persistent=False)

    @property
    def features(self) -> int:
        """How many numbers come out."""
        return self.patches * (len(self.channels) + 1) + len(self.lifelong)

    @property
    def channel_of(self) -> tuple[int, ...]:
        """The channel that each feature comes from; -1 for the shares that are valid."""
        return self.channels * self.patches + (-1,) * self.patches + self.lifelong

    def forward(self, z: Tensor, valid: Tensor) -> Tensor:
        """Return the features, float32 [N,F]."""
        held, known = (torch.cat([x[..., c : c + 1] for c in self.channels], dim=-1) for x in (z, valid))
        count = torch.matmul(self.weights, known)  # [N,P,C]
        means = torch.matmul(self.weights, held) / torch.clamp_min(count, _TINY)
        share = count.sum(dim=-1) / (self.weights.sum(dim=1) * len(self.channels))
        last = [z[:, -1, c : c + 1] * valid[:, -1, c : c + 1] for c in self.lifelong]
        return torch.cat([means.flatten(1), share, *last], dim=1)


class Tcn(nn.Module):
    """Features of `Patches` [N,F] → [N,1]: a layer to mix channels, residual dilated ones, mean and newest, two more.

    ``width`` is that of the last hidden layer; the convolutions have a quarter of it.
    """

    def __init__(self, patches: int, channels: int, lifelong: int, width: int) -> None:
        super().__init__()
        self.patches = patches
        self.channels = channels
        inside = max(8, width // 4)
        self.mix = nn.Conv2d(channels + 1, inside, 1)
        self.layers = nn.ModuleList(
            nn.Conv2d(inside, inside, (1, _KERNEL), dilation=(1, 2**depth)) for depth in range(_depth(patches))
        )
        self.dropout = nn.Dropout(0.0)  # training sets it
        self.hidden = nn.Linear(3 * inside + lifelong, width)
        self.last = nn.Linear(width, 1)

    def forward(self, seen: Tensor) -> Tensor:
        """Return what it says, [N,1]."""
        end = self.patches * self.channels
        means = seen[:, :end].reshape(-1, self.patches, self.channels).transpose(1, 2).unsqueeze(2)  # [N,C,1,P]
        share = seen[:, end : end + self.patches].reshape(-1, 1, 1, self.patches)
        there = (share > 0).float()
        x = mixed = functional.silu(self.mix(torch.cat([means, share], dim=1))) * there
        for depth, layer in enumerate(self.layers):
            before = functional.pad(x, ((_KERNEL - 1) * 2**depth, 0))  # each place sees what was before it
            x = (x + functional.silu(layer(before))) * there
        count = torch.clamp_min(there.sum(dim=3), 1.0)  # [N,1,1]
        level, start = ((each.sum(dim=3) / count).flatten(1) for each in (x, mixed))
        read = torch.cat([level, x[..., -1].flatten(1), start, seen[:, end + self.patches :]], dim=1)
        said: Tensor = self.last(self.dropout(functional.silu(self.hidden(read))))
        return said


def _depth(patches: int) -> int:
    """Return how many layers it takes until the newest patch has seen the oldest."""
    return max(1, math.ceil(math.log2((patches - 1) / (_KERNEL - 1) + 1)))

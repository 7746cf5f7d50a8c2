"""EncodedWindows: a small conv net that says what the course of a channel looks like, learnt without a fault.

After PaAno (Park and Kang, ICLR 2026): short patches, a plain 1-D CNN, distances to what the healthy machine showed.
Two things differ. Each channel goes through the same net by itself, so that a distance belongs to a channel and the
net serves machines with other channels. And the machine's level is kept beside the shape: a patch normalised by itself
cannot tell a hot bearing from a cold one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edge_sft.models.sensors.anomaly import STATISTICS, WindowStatistics
from edge_sft.models.sensors.bank import BankAnomaly

_PLANES = 2  # values, and where they are valid
_LONG = 64  # patches of more steps are halved in time by the first two layers: a fourth of the work
_LIMIT = 10.0  # a wild value says "far out" and no more
_WIDTH = 4  # channels inside the net, times the embedding
_TINY = 1e-4  # a channel that moves by less than a hundredth of its deviation stands still: no shape to enlarge


class PatchEncoder(nn.Module):
    """Three convolutions, their mean over time, and a matrix: float32 [n,2,T] → [n,E].

    Args:
        length: Steps of a patch T.
        embedding: Numbers E that a patch becomes.
    """

    def __init__(self, length: int, embedding: int) -> None:
        super().__init__()
        width, stride = _WIDTH * embedding, 2 if length >= _LONG else 1
        self.layers = nn.Sequential(
            *_layer(_PLANES, width, 7, stride), *_layer(width, width, 5, stride), *_layer(width, width, 3, 1)
        )
        self.out = nn.Linear(width, embedding)

    def forward(self, patches: Tensor) -> Tensor:
        """Return embeddings [n,E]."""
        embedded: Tensor = self.out(self.layers(patches).mean(dim=2))
        return embedded


def _layer(before: int, after: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv1d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm1d(after), nn.ReLU()


class EncodedWindows(nn.Module):
    """What the net sees in each channel, and the channel's level, spread and slope beside it.

    Forward: ``window``, ``valid`` float32 [N,T,C], ``mean``, ``std`` float32 [C] → ``features`` float32 [N,(3+E)·C]
    (`WindowStatistics` first, then embeddings; all channels of one number together) and ``seen`` [N,C].

    Args:
        length: Grid steps T.
        embedding: Numbers E a channel.
        usual: As for `WindowStatistics`.
    """

    def __init__(self, length: int, embedding: int, usual: Sequence[float] | None = None) -> None:
        super().__init__()
        self.statistics = WindowStatistics(length, usual)
        self.encoder = PatchEncoder(length, embedding)
        self.length = length
        self.embedding = embedding

    def forward(self, window: Tensor, valid: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [N,(3+E)·C] and what was seen [N,C]."""
        statistics, seen = self.statistics(window, valid, mean, std)
        channels = window.shape[2]
        embedded = self.encoder(patches(window, valid, mean, std, self.length))
        embedded = embedded.reshape(-1, channels, self.embedding).permute(0, 2, 1)
        shape = (embedded * seen.unsqueeze(1)).reshape(-1, self.embedding * channels)
        return torch.cat([statistics, shape], dim=1), seen


def patches(window: Tensor, valid: Tensor, mean: Tensor, std: Tensor, length: int) -> Tensor:
    """Return each channel as a patch [N·C,2,T]: its course about its own middle in its own deviations, and validity."""
    z = torch.clamp((window - mean) / std, -1e4, 1e4) * valid
    n = torch.clamp(valid.sum(dim=1, keepdim=True), min=1.0)
    apart = (z - z.sum(dim=1, keepdim=True) / n) * valid
    spread = torch.sqrt((apart * apart).sum(dim=1, keepdim=True) / n + _TINY)
    course = torch.clamp(apart / spread, -_LIMIT, _LIMIT)
    planes = torch.stack([course, valid], dim=1)  # [N,2,T,C]
    return planes.permute(0, 3, 1, 2).reshape(-1, _PLANES, length)


def build(config: dict[str, Any]) -> BankAnomaly:
    """Rebuild the module from its config: the bank's, ``embedding``, and ``shape``, the share of the evidence that is
    the embedding's.
    """
    length, channels, neighbours, embedding = (
        int(config[name]) for name in ("length", "channels", "neighbours", "embedding")
    )
    each, shape = STATISTICS + embedding, float(config["shape"])
    importance = (each * (1 - shape) / STATISTICS,) * STATISTICS + (each * shape / embedding,) * embedding
    front = EncodedWindows(length, embedding, config.get("usual"))
    clip, sharp = float(config["clip"]), bool(config["sharp"])
    return BankAnomaly(front, each, channels, neighbours, clip, sharp=sharp, importance=importance)

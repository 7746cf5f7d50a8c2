"""The one shape every backbone takes: stages in depth order, a pooling, a linear head; normalisation inside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Backbone:
    """What a registry entry's builder returns.

    Attributes:
        stages: From the picture to the last feature map; float NCHW through and through. Stage order is depth
            order: fine-tuning decays the learning rate along it and freezes from its start.
        pool: Last feature map → features [N, width].
        width: Number of features.
        mean: Subtracted from the 0–255 channels, RGB.
        std: Divided by, RGB.
    """

    stages: nn.ModuleList
    pool: nn.Module
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Classifier(nn.Module):
    """Backbone + dropout + linear head; ``forward`` takes uint8 NHWC RGB [N,H,W,3] and returns logits [N,K]."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, n_labels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.stages = backbone.stages
        self.pool = backbone.pool
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.width, n_labels)
        # not persistent: they belong to the backbone's name, not to what was learnt
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)

    def normalise(self, image: Tensor) -> Tensor:
        """Turn uint8 or 0–255 float [N,H,W,3] into normalised float [N,3,H,W]; the cast comes first."""
        return (image.to(self.mean.dtype).permute(0, 3, 1, 2) - self.mean) / self.std

    def features(self, normalised: Tensor) -> Tensor:
        """Turn normalised [N,3,H,W] into features [N,width]."""
        for stage in self.stages:
            normalised = stage(normalised)
        pooled: Tensor = self.pool(normalised)
        return pooled

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N,K] of uint8 pictures [N,H,W,3]."""
        logits: Tensor = self.head(self.dropout(self.features(self.normalise(image))))
        return logits


class GlobalAverage(nn.Module):
    """Mean over height and width, [N,C,h,w] → [N,C]."""

    def forward(self, maps: Tensor) -> Tensor:
        """Average each feature map."""
        return maps.mean(dim=(2, 3))

"""Segmentation: a probability of each label in every cell of the pyramid's finest map."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edge_sft.models.dense.network import Raw
from edge_sft.models.dense.pyramid import Separable

_RARE = 0.02  # probability of all defects together before anything is learnt


class SegmentationHead(nn.Module):
    """Per cell: a logit of the background and of each label."""

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Separable(width))
        self.logits = nn.Conv2d(width, labels, 1)
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.zeros_(self.logits.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.logits.bias[0] = math.log((1 - _RARE) / _RARE * (labels - 1))  # type: ignore[index]

    def raw(self, maps: Tensor) -> Raw:
        """Return logits [N,K,h,w]."""
        return (self.logits(self.blocks(maps)),)

    def answers(self, raw: Raw) -> Raw:
        """Return probabilities [N,K,h,w]."""
        return (torch.softmax(raw[0], dim=1),)

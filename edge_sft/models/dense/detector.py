"""Detection in static shapes: centres are peaks of a heat map, boxes are distances from them, doubles fade.

CenterNet (Zhou et al. 2019) trained as TTFNet does (Liu et al. 2020). What is left of doubles in minutes of training is
faded by Matrix NMS (Wang et al. 2020), a few operations on all pairs at once and nothing that NVIDIA's parser refuses:
halfway through a training on NEU-DET it took mAP50 on validation from 0.530 to 0.576, as plain suppression does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_sft.models.dense.network import Raw
from edge_sft.models.dense.pyramid import Separable

_RARE = 0.01  # probability of a centre before anything is learnt: with 0.5 the first steps only unlearn
_FADING = 2.0  # a double's score falls by exp(−2 · overlap²): the paper's Gaussian with σ = 0.5
_FARTHEST = 7.0  # e^7 cells: what an untrained network says must stay finite in half precision, too


class DetectionHead(nn.Module):
    """Per cell: logit of a centre of each label, distances to the box's four sides, logit of how well the box fits."""

    columns: Tensor
    rows: Tensor
    limits: Tensor
    label_of: Tensor
    higher: Tensor

    def __init__(self, width: int, labels: int, *, stride: int, size: tuple[int, int], most: int) -> None:
        super().__init__()
        self.labels, self.stride, self.most = labels, stride, most
        height, breadth = size[0] // stride, size[1] // stride
        self.blocks = nn.Sequential(Separable(width), Separable(width))
        self.heat = nn.Conv2d(width, labels, 1)
        self.sides = nn.Conv2d(width, 4, 1)
        self.fit = nn.Conv2d(width, 1, 1)
        nn.init.normal_(self.heat.weight, std=0.01)
        nn.init.constant_(self.heat.bias, math.log(_RARE / (1 - _RARE)))  # type: ignore[arg-type]
        nn.init.normal_(self.sides.weight, std=0.01)
        nn.init.constant_(self.sides.bias, math.log(min(height, breadth) / 4))  # type: ignore[arg-type]
        nn.init.normal_(self.fit.weight, std=0.01)
        nn.init.zeros_(self.fit.bias)  # type: ignore[arg-type]
        self.kept = min(most, height * breadth)
        x = (torch.arange(breadth) + 0.5).repeat(height) * stride
        y = (torch.arange(height) + 0.5).repeat_interleave(breadth) * stride
        limits = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32)
        label_of = torch.arange(labels, dtype=torch.int64).repeat_interleave(self.kept)
        higher = torch.ones(most, most).triu(1)  # row before column
        parts = {"columns": x, "rows": y, "limits": limits, "label_of": label_of, "higher": higher}
        for name, values in parts.items():
            self.register_buffer(name, values, persistent=False)

    def raw(self, maps: Tensor) -> Raw:
        """Return heat [N,K,h,w], sides [N,4,h,w] (logarithm of left, top, right, bottom in cells), fit [N,1,h,w]."""
        maps = self.blocks(maps)
        return self.heat(maps), self.sides(maps), self.fit(maps)

    def answers(self, raw: Raw) -> Raw:
        """Return boxes [N,M,4], scores [N,M] falling, labels int32 [N,M]; score 0 pads."""
        scores, places, labels = self._highest(raw[0], raw[2])
        boxes = self.boxes(raw[1])
        chosen = torch.gather(boxes, 1, places.unsqueeze(2).expand(-1, -1, 4))
        scores, order = torch.topk(scores * self._fading(chosen, labels), scores.shape[1], dim=1)
        there = (scores > 0).to(boxes.dtype)
        # where there is none, everything is 0: ties among nothing would be broken differently by each engine
        chosen = torch.gather(chosen, 1, order.unsqueeze(2).expand(-1, -1, 4)) * there.unsqueeze(2)
        labels = torch.gather(labels, 1, order) * there.to(labels.dtype)
        missing = self.most - scores.shape[1]
        if missing:
            chosen = functional.pad(chosen, (0, 0, 0, missing))
            scores, labels = functional.pad(scores, (0, missing)), functional.pad(labels, (0, missing))
        return chosen, scores, labels.to(torch.int32)

    def _fading(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """Return what each box's score is multiplied by, [N,n] for boxes [N,n,4] in falling order of score.

        A box fades by its overlap with each higher one of its label, less where that one is itself a double.
        """
        left, top, right, bottom = boxes.unbind(dim=2)
        wide = torch.minimum(right[:, :, None], right[:, None]) - torch.maximum(left[:, :, None], left[:, None])
        high = torch.minimum(bottom[:, :, None], bottom[:, None]) - torch.maximum(top[:, :, None], top[:, None])
        shared = wide.clamp(min=0.0) * high.clamp(min=0.0)
        area = (right - left) * (bottom - top)
        overlap = shared / (area[:, :, None] + area[:, None] - shared).clamp(min=1e-3)
        same = (labels[:, :, None] == labels[:, None]).to(boxes.dtype)
        squared = (overlap * same * self.higher[: boxes.shape[1], : boxes.shape[1]]).square()
        double = squared.amax(dim=1)
        return torch.exp(_FADING * (double[:, :, None] - squared).amin(dim=1).clamp(max=0.0))

    def boxes(self, sides: Tensor) -> Tensor:
        """Return every cell's box in pixels, [N,P,4] xyxy, cut to the picture."""
        away = torch.exp(sides.clamp(max=_FARTHEST)).flatten(2) * self.stride  # [N,4,P]
        left, top = self.columns - away[:, 0], self.rows - away[:, 1]
        right, bottom = self.columns + away[:, 2], self.rows + away[:, 3]
        corners = torch.stack([left, top, right, bottom], dim=2)
        return torch.minimum(corners.clamp(min=0.0), self.limits)

    def _highest(self, heat: Tensor, fit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, places (cells) and labels of the highest peaks, [N,min(M, K·P)].

        Peaks are sought in the logits: in half precision, probabilities near 1 are equal where logits are not. First
        the best places of each label, then the best of these: NVIDIA's TopK takes fewer than 3840 at once.
        """
        around = functional.max_pool2d(heat, 3, stride=1, padding=1)
        peak = (heat >= around).to(heat.dtype)
        score = torch.sqrt(torch.sigmoid(heat) * torch.sigmoid(fit)) * peak
        best, places = torch.topk(score.flatten(2), self.kept, dim=2)
        scores, among = torch.topk(best.flatten(1), min(self.most, self.labels * self.kept), dim=1)
        return scores, torch.gather(places.flatten(1), 1, among), self.label_of[among]

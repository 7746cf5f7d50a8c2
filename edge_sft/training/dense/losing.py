"""The loss of a recipe's task, from the raw answers and what is true in each tile of a batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edge_sft.models.dense import Dense, stride_of
from edge_sft.models.dense.detector import DetectionHead
from edge_sft.recipe import Recipe
from edge_sft.training.dense.loop import Loss
from edge_sft.training.dense.losses import detection_loss, label_weights, segmentation_loss
from edge_sft.training.dense.samples import Drawn, Samples
from edge_sft.training.dense.targets import shares, wanted


def loss_of(recipe: Recipe, dense: Dense, train: Samples, device: torch.device) -> Loss:
    """Return the loss; a segmentation's labels are weighted by how much of the training tiles they cover."""
    labels, stride = len(recipe.task.labels), stride_of(recipe)
    if isinstance(dense.head, DetectionHead):
        return _detection(dense.head, labels, stride, device)
    pixels = np.zeros(labels + 1)
    for drawn in train.drawn:
        if drawn.mask is not None:
            pixels += np.bincount(drawn.mask.reshape(-1), minlength=labels + 1)
    weights = label_weights(torch.from_numpy(pixels)).float().to(device)

    def segmentation(raw: tuple[Tensor, ...], drawn: list[Drawn]) -> Tensor:
        cells = raw[0].shape[-2], raw[0].shape[-1]
        target = torch.from_numpy(shares(drawn, labels + 1, cells)).to(device)
        return segmentation_loss(raw[0], target, weights)

    return segmentation


def _detection(head: DetectionHead, labels: int, stride: int, device: torch.device) -> Loss:
    def detection(raw: tuple[Tensor, ...], drawn: list[Drawn]) -> Tensor:
        target = wanted(drawn, labels, (raw[0].shape[-2], raw[0].shape[-1]), stride)
        heat, boxes, share, judged = (
            torch.from_numpy(values).to(device) for values in (target.heat, target.boxes, target.share, target.judged)
        )
        return detection_loss(raw, head.boxes(raw[1].float()), heat, boxes, share, judged)

    return detection

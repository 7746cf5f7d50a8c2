"""How wrong raw answers are, as one number to make smaller."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_BOXES, _SIDES, _FIT = 5.0, 0.5, 1.0  # weights beside the heat's (TTFNet's for boxes)
_RARITY = 0.5  # a label's weight: its share of cells to this power, inverted; 1 lets a few cells outshout all others
_MOST_TIMES = 20.0  # at most so many times the background's
_DICE = 1.0


def detection_loss(
    raw: tuple[Tensor, ...], boxes: Tensor, heat: Tensor, wanted: Tensor, share: Tensor, judged: Tensor
) -> Tensor:
    """Return the loss of a batch.

    Args:
        raw: Heat logits [N,K,h,w], logarithms of sides [N,4,h,w], fit logits [N,1,h,w].
        boxes: What the sides say, in pixels, [N,P,4].
        heat: Target of the heat.
        wanted: Target boxes [N,4,h,w].
        share: How much each cell's box counts [N,1,h,w].
        judged: Where heat is judged [N,1,h,w].
    """
    objects = share.sum().clamp(min=1.0)
    total = focal(raw[0].float(), heat, judged) / (heat == 1).sum().clamp(min=1)
    here = share.flatten() > 0
    found, true, weight = boxes.float().flatten(0, 1)[here], _rows(wanted)[here], share.flatten()[here]
    overlap, generalised = overlaps(found, true)
    size = (true[:, 2:] - true[:, :2]).clamp(min=1.0)
    apart = ((found - true).abs() / torch.cat([size, size], dim=1)).sum(dim=1)
    fit = functional.binary_cross_entropy_with_logits(
        raw[2].float().flatten()[here], overlap.detach().clamp(0, 1), reduction="none"
    )
    each = _BOXES * (1 - generalised) + _SIDES * apart.clamp(max=4.0) + _FIT * fit
    return total + (weight * each).sum() / objects


def focal(logits: Tensor, target: Tensor, judged: Tensor) -> Tensor:
    """Return CenterNet's penalty-reduced focal loss, summed: the nearer to a centre, the less heat there costs."""
    probability = torch.sigmoid(logits)
    right = (1 - probability) ** 2 * functional.logsigmoid(logits)
    wrong = (1 - target) ** 4 * probability**2 * functional.logsigmoid(-logits)
    return -(torch.where(target == 1, right, wrong) * judged).sum()


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return intersection over union and its generalised form (Rezatofighi et al. 2019) of boxes [n,4] in pairs."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    union = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1) - shared
    around = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(dim=1)
    overlap = shared / union.clamp(min=1e-6)
    return overlap, overlap - (around - union) / around.clamp(min=1e-6)


def segmentation_loss(logits: Tensor, shares: Tensor, weights: Tensor) -> Tensor:
    """Return cross-entropy against each cell's shares of labels, weighted by label, plus one minus Dice by label.

    Args:
        logits: [N,K,h,w].
        shares: Target, [N,K,h,w], adding up to 1 over labels.
        weights: By label [K], see `label_weights`.
    """
    spoken = functional.log_softmax(logits.float(), dim=1)
    heavy = shares * weights.view(1, -1, 1, 1)
    entropy = -(heavy * spoken).sum() / heavy.sum()
    probability = spoken.exp()[:, 1:]
    target = shares[:, 1:]
    present = target.sum(dim=(0, 2, 3)) > 0  # a label that the batch lacks has no overlap to speak of
    both = (probability * target).sum(dim=(0, 2, 3))
    either = (probability**2).sum(dim=(0, 2, 3)) + (target**2).sum(dim=(0, 2, 3))
    dice = (1 - (2 * both + 1) / (either + 1))[present]
    return entropy + _DICE * (dice.mean() if len(dice) else logits.sum() * 0)


def label_weights(cells: Tensor) -> Tensor:
    """Return a weight for each label from how many cells it has in training, the background's being 1."""
    share = cells / cells.sum()
    weights: Tensor = (share[0] / share.clamp(min=1e-9)) ** _RARITY
    return weights.clamp(max=_MOST_TIMES)


def _rows(boxes: Tensor) -> Tensor:
    return boxes.flatten(2).transpose(1, 2).flatten(0, 1)

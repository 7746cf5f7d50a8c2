"""BankAnomaly: how far a window's features are from the nearest examples of the machine's healthy run.

What the features are is another module's: the statistics of `anomaly.py`, or a learnt encoder's of `encoder.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edge_sft.models.sensors.anomaly import STATISTICS, WindowStatistics, shares, watched

_TINY = 1e-6


class BankAnomaly(nn.Module):
    """k nearest neighbours with the memory as an input.

    Forward: ``window``, ``valid`` [N,T,C], ``mean``, ``std`` [C], ``bank`` [2+D+M, D] with D = F·C, all float32 →
    ``score`` [N], ``contributions`` [N,C], ``features`` [N,D].

    The bank's first row is the features' centre, its second what they are multiplied with, D rows follow that take
    features apart which move together, the others are examples so treated (`edge_sft.slots.memories` makes it). The
    score is the mean over the ``neighbours`` nearest examples of the root mean squared difference over the features
    that are there; NaN where no channel is.

    Neighbours are found by matrix products and TopK; their differences are then taken exactly, because
    ``|a|² + |b|² − 2ab`` loses small distances in half precision.

    Args:
        statistics: ``window``, ``valid``, ``mean``, ``std`` → ``features`` [N,D], all channels of one feature together,
            and ``seen`` [N,C].
        each: Features a channel F.
        channels: Columns C.
        neighbours: How many of the nearest examples count.
        clip: Standardised features beyond this count as this: one channel that explodes does not hide the others,
            and squares stay within half precision.
        sharp: Take the fourth-power mean over channels instead of the root mean square, so that one channel among
            many that goes wrong is heard (Tennessee Eastman's 52, on training rows: fault 5, which ends in one valve,
            .57 → .95 of its rows; 8 channels gain nothing by it).
        importance: How much each feature's squared difference counts [F], adding up to F; None = all alike.
    """

    importance: Tensor | None

    def __init__(
        self,
        statistics: nn.Module,
        each: int,
        channels: int,
        neighbours: int,
        clip: float,
        *,
        sharp: bool = False,
        importance: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.statistics = statistics
        self.each = each
        self.channels = channels
        self.neighbours = neighbours
        self.clip = clip
        self.sharp = sharp
        if importance is not None:  # not kept in checkpoints: the config says it
            counts = torch.tensor(importance).repeat_interleave(channels).reshape(1, -1)
            self.register_buffer("importance", counts, persistent=False)
        else:
            self.importance = None

    def forward(
        self, window: Tensor, valid: Tensor, mean: Tensor, std: Tensor, bank: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return score [N], contributions [N,C], features [N,D]."""
        features, seen = self.statistics(window, valid, mean, std)
        there = torch.cat([seen] * self.each, dim=1)
        weight = there if self.importance is None else there * self.importance
        size = self.each * self.channels
        standard = torch.clamp((features - bank[0:1]) * bank[1:2], -self.clip, self.clip)
        query = torch.matmul(standard * there, bank[2 : 2 + size])  # a missing channel counts as at its centre
        examples = bank[2 + size :]
        nearest = self._nearest(query, weight, examples)
        found = examples.index_select(0, nearest.reshape(-1))
        apart = query.unsqueeze(1) - found.reshape(-1, self.neighbours, query.shape[1])
        squares = apart * apart * weight.unsqueeze(1)
        by_channel = squares.mean(dim=1).reshape(-1, self.each, self.channels).sum(dim=1)
        if self.sharp:
            score = _sharp(torch.sqrt(by_channel / self.each), seen)
        else:
            score = torch.sqrt(squares.sum(dim=2) / watched(seen, self.each)).mean(dim=1)
        return score, shares(by_channel), features

    def _nearest(self, query: Tensor, weight: Tensor, examples: Tensor) -> Tensor:
        scale = 1.0 / query.shape[1]
        cross = torch.matmul(query * weight * scale, examples.transpose(0, 1))
        length = torch.matmul(weight * scale, (examples * examples).transpose(0, 1))
        nearness = 2.0 * cross - length  # the query's own length is the same for every example
        return torch.topk(nearness, self.neighbours, dim=1).indices


def _sharp(by_channel: Tensor, seen: Tensor) -> Tensor:
    """Fourth-power mean over the channels that are there [N], against the largest so that no power overflows."""
    largest = by_channel.amax(dim=1, keepdim=True) + _TINY
    ratio = by_channel / largest
    square = ratio * ratio
    fourth = (square * square).sum(dim=1) / seen.sum(dim=1)
    return largest.squeeze(1) * torch.sqrt(torch.sqrt(fourth))


def build(config: dict[str, Any]) -> BankAnomaly:
    """Rebuild the module from its config: ``length``, ``channels``, ``neighbours``, ``clip``, ``sharp``."""
    length, channels, neighbours = (int(config[name]) for name in ("length", "channels", "neighbours"))
    front = WindowStatistics(length, config.get("usual"))
    return BankAnomaly(front, STATISTICS, channels, neighbours, float(config["clip"]), sharp=bool(config["sharp"]))

"""ComponentsAnomaly: Hotelling's T² and the residual Q of a principal component model, both against their limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edge_sft.models.sensors.anomaly import STATISTICS, WindowStatistics, shares, watched


class ComponentsAnomaly(nn.Module):
    """T² and Q with the component model as an input.

    Forward: ``window``, ``valid`` [N,T,C], ``mean``, ``std`` [C], ``bank`` [2+2·D, D] with D = 3·C, all float32 →
    ``score`` [N], ``contributions`` [N,C], ``features`` [N,D].

    The bank's first row is the features' centre, its second what they are multiplied with; D rows follow whose
    products with the standardised features are, squared and added, T² against its limit (unused rows are 0), and D
    rows for Q against its own. The score is the root of the larger of both. Features of a missing channel count as
    at the centre; what is left is scaled up to the whole.
    """

    def __init__(self, length: int, channels: int, clip: float, usual: Sequence[float] | None = None) -> None:
        super().__init__()
        self.statistics = WindowStatistics(length, usual)
        self.channels = channels
        self.clip = clip

    def forward(
        self, window: Tensor, valid: Tensor, mean: Tensor, std: Tensor, bank: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return score [N], contributions [N,C], features [N,D]."""
        features, seen = self.statistics(window, valid, mean, std)
        size = STATISTICS * self.channels
        weight = torch.cat([seen] * STATISTICS, dim=1)
        query = torch.clamp((features - bank[0:1]) * bank[1:2], -self.clip, self.clip) * weight
        inside, outside = bank[2 : 2 + size], bank[2 + size : 2 + 2 * size]
        t = torch.matmul(query, inside.transpose(0, 1))
        q = torch.matmul(query, outside.transpose(0, 1))
        t2, spe = (t * t).sum(dim=1), (q * q).sum(dim=1)
        score = torch.sqrt(torch.maximum(t2, spe) * size / watched(seen).squeeze(1))
        by_t2 = torch.abs(query * torch.matmul(t, inside))
        by_q = torch.abs(query * torch.matmul(q, outside))
        louder = (t2 > spe).to(query.dtype).unsqueeze(1)
        evidence = louder * by_t2 + (1.0 - louder) * by_q
        return score, shares(evidence.reshape(-1, STATISTICS, self.channels).sum(dim=1)), features


def build(config: dict[str, Any]) -> ComponentsAnomaly:
    """Rebuild the module from its config: ``length``, ``channels``, ``clip``."""
    length, channels = int(config["length"]), int(config["channels"])
    return ComponentsAnomaly(length, channels, float(config["clip"]), config.get("usual"))

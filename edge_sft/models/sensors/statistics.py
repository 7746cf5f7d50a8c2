"""Statistics of a window inside the graph: last value, means, spreads, slopes and slow averages, what is valid only.

Sums over time are products with a small constant matrix [rows, T], so the graph has no loop and no state: MatMul, Mul,
Div, ReduceMax, Equal. A channel of which nothing is valid gives zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["last", "mean", "std", "slope", "ema"]
_TINY = 1e-6


@dataclass(frozen=True)
class Statistic:
    """One number a channel: ``last``; ``mean``, ``std``, ``slope`` of the newest ``span`` steps; ``ema`` whose newest
    step weighs ``1/span`` of all. A slope is covariance with time over the standard deviation of time: the change
    over the span in units of the channel, so that short spans do not shout."""

    kind: Kind
    span: float = 1

    @classmethod
    def parse(cls, text: str) -> Statistic:
        """Read ``kind`` or ``kind:span``, e.g. ``slope:80``."""
        kind, _, span = text.partition(":")
        if kind not in ("last", "mean", "std", "slope", "ema"):
            raise ValueError(f"{kind!r} is no statistic")
        return cls(kind, float(span or 1))  # type: ignore[arg-type]


class Statistics(nn.Module):
    """Normalised window [N,T,C] (0 where not valid) and validity [N,T,C] → features [N,F].

    F = (statistics × C) + lifelong: channels that are ``lifelong`` (age) give their last value only.
    Features lie statistic by statistic, each with its channels in order.
    """

    weights: Tensor
    place: Tensor

    def __init__(self, length: int, channels: int, statistics: tuple[str, ...], lifelong: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.texts = statistics
        self.statistics = tuple(Statistic.parse(text) for text in statistics)
        self.lifelong = lifelong
        self.channels = tuple(c for c in range(channels) if c not in lifelong)
        self.length = length
        rows, self._rows = _rows(self.statistics, length)
        self.register_buffer("weights", rows, persistent=False)
        self.register_buffer("place", torch.arange(1, length + 1).float().reshape(1, -1, 1), persistent=False)

    @property
    def features(self) -> int:
        """How many numbers come out."""
        return len(self.statistics) * len(self.channels) + len(self.lifelong)

    @property
    def channel_of(self) -> tuple[int, ...]:
        """The channel that each feature comes from."""
        return self.channels * len(self.statistics) + self.lifelong

    def forward(self, z: Tensor, valid: Tensor) -> Tensor:
        """Return the features, float32 [N,F]."""
        held, held_valid = self._of(z), self._of(valid)
        one = torch.matmul(self.weights, held)  # Σ w z
        two = torch.matmul(self.weights, held * held)  # Σ w z²
        count = torch.matmul(self.weights, held_valid)  # Σ w
        parts = [self._one(s, held, held_valid, one, two, count) for s in self.statistics]
        if self.lifelong:
            parts.append(torch.cat([self._last(z[..., c : c + 1], valid[..., c : c + 1]) for c in self.lifelong], 1))
        return torch.cat(parts, dim=1)

    def _of(self, x: Tensor) -> Tensor:
        first, last = self.channels[0], self.channels[-1]
        if last - first + 1 == len(self.channels):
            return x[..., first : last + 1]
        return torch.cat([x[..., c : c + 1] for c in self.channels], dim=-1)

    def _one(self, s: Statistic, z: Tensor, valid: Tensor, one: Tensor, two: Tensor, count: Tensor) -> Tensor:
        if s.kind == "last":
            return self._last(z, valid)
        row = self._rows[s]
        total = torch.clamp_min(count[:, row], _TINY)
        mean = one[:, row] / total
        if s.kind == "std":
            return torch.sqrt(torch.clamp_min(two[:, row] / total - mean * mean, 0.0) + _TINY)
        if s.kind == "slope":  # rows: 1, t, t²
            time = count[:, row + 1] / total
            spread = torch.clamp_min(count[:, row + 2] / total - time * time, 0.0) + _TINY
            return (one[:, row + 1] / total - time * mean) / torch.sqrt(spread)
        return mean

    def _last(self, z: Tensor, valid: Tensor) -> Tensor:
        """Return the newest valid value of each channel: the one step whose place is the largest valid one's."""
        place = self.place * valid
        newest = place.amax(dim=1, keepdim=True)
        return (z * valid * (place == newest).float()).sum(dim=1)


def _rows(statistics: tuple[Statistic, ...], length: int) -> tuple[Tensor, dict[Statistic, int]]:
    """Return the matrix of weights over time, newest step last, and each statistic's first row in it."""
    ago = torch.arange(length - 1, -1, -1).double()
    rows: list[Tensor] = []
    where: dict[Statistic, int] = {}
    means: dict[float, int] = {}
    for s in statistics:
        inside = (ago < s.span).double()
        if s.kind == "ema":
            where[s] = len(rows)
            rows.append((1 - 1 / s.span) ** ago)
        elif s.kind == "slope":
            time = 1 - ago / min(s.span, length)  # 0 … 1: squares stay in range
            where[s] = len(rows)
            rows += [inside, inside * time, inside * time * time]
        elif s.kind in ("mean", "std"):
            if s.span not in means:
                means[s.span] = len(rows)
                rows.append(inside)
            where[s] = means[s.span]
    return torch.stack(rows or [torch.ones(length).double()]).float(), where

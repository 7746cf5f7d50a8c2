"""Remaining useful life: normalise, statistics of the window, a few nets averaged, the conformal interval."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edge_sft.models.sensors.mlp import Members
from edge_sft.models.sensors.normalise import Normaliser
from edge_sft.models.sensors.statistics import Statistics
from edge_sft.preprocess import Windowing
from edge_sft.task import Task


class Interval(nn.Module):
    """Estimates [N] → quantiles [N,Q]: each level adds an offset that depends on the estimate, piecewise linearly.

    Buffers: ``knots`` [P] rising, ``offsets`` [Q,P]. Values are cut to [0, cap]: beyond the cap life cannot be seen.
    """

    knots: Tensor
    offsets: Tensor

    def __init__(self, levels: int, knots: int, cap: float) -> None:
        super().__init__()
        self.cap = cap
        self.register_buffer("knots", torch.linspace(0, cap, knots))
        self.register_buffer("offsets", torch.zeros(levels, knots))

    def forward(self, value: Tensor) -> Tensor:
        """Return the quantiles, rising, [N,Q]."""
        start, step = self.knots[:-1], self.knots[1:] - self.knots[:-1]
        part = torch.clamp((value.unsqueeze(-1) - start) / step, 0.0, 1.0)  # [N,P-1]
        rise = self.offsets[:, 1:] - self.offsets[:, :-1]  # [Q,P-1]
        offset = (part.unsqueeze(1) * rise).sum(dim=-1) + self.offsets[:, 0]
        return torch.clamp(value.unsqueeze(-1) + offset, 0.0, self.cap)


class Regressor(nn.Module):
    """``window``, ``valid`` float32 [N,T,C] → ``value`` [N] in [0, cap], ``quantiles`` [N,Q]."""

    def __init__(self, front: Front, members: Members, interval: Interval, cap: float) -> None:
        super().__init__()
        self.front = front
        self.members = members
        self.interval = interval
        self.cap = cap

    def forward(self, window: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the estimate and its quantiles, in the task's unit."""
        value = torch.clamp(self.members(self.front(window, valid)), 0.0, 1.0) * self.cap
        return value, self.interval(value)


class Front(nn.Module):
    """``window``, ``valid`` → features [N,F], not yet standardised: normalisation and what looks over time."""

    def __init__(self, normalise: Normaliser, body: Statistics) -> None:
        super().__init__()
        self.normalise = normalise
        self.body = body

    def forward(self, window: Tensor, valid: Tensor) -> Tensor:
        """Return features [N,F]."""
        features: Tensor = self.body(*self.normalise(window, valid))
        return features


def build(task: Task, windowing: Windowing, config: dict[str, Any]) -> Regressor:
    """Build an untrained one; see `registry.build`."""
    cap = float(config["cap"])
    front = build_front(windowing, config)
    members = Members(front.body.features, int(config["width"]), int(config["members"]))
    return Regressor(front, members, Interval(len(task.quantiles), int(config["knots"]), cap), cap)


def build_front(windowing: Windowing, config: dict[str, Any]) -> Front:
    """Build what comes before the nets."""
    channels = len(windowing.names)
    body = Statistics(windowing.length, channels, tuple(config["statistics"]), lifelong(windowing))
    return Front(Normaliser.from_config(config["normalise"]), body)


def lifelong(windowing: Windowing) -> tuple[int, ...]:
    """Return the indices of the columns that count a life."""
    return (len(windowing.names) - 1,) if windowing.age else ()

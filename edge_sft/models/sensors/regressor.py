"""Remaining useful life: normalise, look over time, a few nets averaged, the conformal interval."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from edge_sft.models.sensors.mlp import Columns, Members, mlp
from edge_sft.models.sensors.normalise import Normaliser
from edge_sft.models.sensors.statistics import Statistics
from edge_sft.models.sensors.tcn import Patches, Tcn
from edge_sft.preprocess import Windowing
from edge_sft.task import Task

Kind = Literal["mlp", "tcn"]
# What nets there are in a model, and in which order; each looks at features of its own
KINDS: dict[str, tuple[Kind, ...]] = {"mlp": ("mlp",), "tcn": ("tcn",), "mlp+tcn": ("mlp", "tcn")}


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

    def __init__(self, normalise: Normaliser, body: Body) -> None:
        super().__init__()
        self.normalise = normalise
        self.body = body

    def forward(self, window: Tensor, valid: Tensor) -> Tensor:
        """Return features [N,F]."""
        features: Tensor = self.body(*self.normalise(window, valid))
        return features


class Body(nn.Module):
    """Normalised window and validity [N,T,C] → what every kind of net looks at, side by side, [N,F]."""

    def __init__(self, looks: dict[Kind, Statistics | Patches]) -> None:
        super().__init__()
        self.kinds = tuple(looks)
        self.looks = nn.ModuleList(looks.values())
        self.sizes = tuple(look.features for look in looks.values())
        self.features = sum(self.sizes)
        self.channel_of = tuple(channel for look in looks.values() for channel in look.channel_of)
        self.length = next(iter(looks.values())).length

    def forward(self, z: Tensor, valid: Tensor) -> Tensor:
        """Return the features, float32 [N,F]."""
        found = [look(z, valid) for look in self.looks]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    @property
    def texts(self) -> tuple[str, ...]:
        """The statistics, as `edge_sft.models.sensors.statistics.Statistic.parse` reads them."""
        return next((look.texts for look in self.looks if isinstance(look, Statistics)), ())

    def ready(self) -> list[bool]:
        """Tell for each feature whether it is standardised already, and must stay comparable with its neighbours."""
        return [
            isinstance(look, Patches) and channel not in look.lifelong
            for look in self.looks
            for channel in look.channel_of  # type: ignore[union-attr]
        ]

    def nets(self, width: int, each: int) -> list[nn.Module]:
        """Return ``each`` untrained nets of each kind, kind by kind."""
        made: list[nn.Module] = []
        start = 0
        for look, size in zip(self.looks, self.sizes, strict=True):
            columns = [] if len(self.sizes) == 1 else [Columns(start, start + size)]
            for _ in range(each):
                net = [*mlp(size, width)] if isinstance(look, Statistics) else [_tcn(look, width)]
                made.append(nn.Sequential(*columns, *net))
            start += size
        return made


def _tcn(look: nn.Module, width: int) -> Tcn:
    assert isinstance(look, Patches)
    return Tcn(look.patches, len(look.channels), len(look.lifelong), width)


def build(task: Task, windowing: Windowing, config: dict[str, Any]) -> Regressor:
    """Build an untrained one; see `registry.build`."""
    cap = float(config["cap"])
    front = build_front(windowing, config)
    nets = front.body.nets(int(config["width"]), int(config["members"]) // len(front.body.kinds))
    interval = Interval(len(task.quantiles), int(config["knots"]), cap)
    return Regressor(front, Members(front.body.features, nets), interval, cap)


def build_front(windowing: Windowing, config: dict[str, Any]) -> Front:
    """Build what comes before the nets."""
    length, channels, life = windowing.length, len(windowing.names), lifelong(windowing)
    looks: dict[Kind, Statistics | Patches] = {}
    for kind in KINDS[config["architecture"]]:
        if kind == "mlp":
            looks[kind] = Statistics(length, channels, tuple(config["statistics"]), life)
        else:
            looks[kind] = Patches(length, channels, life)
    return Front(Normaliser.from_config(config["normalise"]), Body(looks))


def lifelong(windowing: Windowing) -> tuple[int, ...]:
    """Return the indices of the columns that count a life."""
    return (len(windowing.names) - 1,) if windowing.age else ()

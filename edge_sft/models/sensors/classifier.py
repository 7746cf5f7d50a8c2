"""Fault classification: views of a window, a few small nets on each, their probabilities averaged, one temperature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edge_sft.models.sensors import views
from edge_sft.models.sensors.normalise import Normaliser
from edge_sft.models.sensors.regressor import lifelong
from edge_sft.models.sensors.statistics import Statistics
from edge_sft.preprocess import Windowing
from edge_sft.task import Task

STATISTICS = "statistics"  # the view for slow signals: levels, spreads and slopes instead of spectra
LIMIT = 5.0  # standard deviations of a feature
_TINY = 1e-7


class Heads(nn.Module):
    """Features of one view [N,F] → probabilities [N,K], the mean of a few nets of different seeds.

    Buffers ``mean`` and ``scale`` [F] standardise the features (scale 0 = says nothing).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, labels: int, width: int, members: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.nets = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(dropout),
                nn.Linear(features, width),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(width, labels),
            )
            for _ in range(members)
        )

    def standardised(self, features: Tensor) -> Tensor:
        """Return what the nets see, [N,F]."""
        return torch.clamp((features - self.mean) * self.scale, -LIMIT, LIMIT)

    def logits(self, seen: Tensor) -> Tensor:
        """Return each net's logits for standardised features, [members,N,K]."""
        return torch.stack([net(seen) for net in self.nets])

    def forward(self, features: Tensor) -> Tensor:
        """Return the mean probabilities."""
        return torch.softmax(self.logits(self.standardised(features)), dim=-1).mean(0)


class Fronts(nn.Module):
    """``window``, ``valid`` float32 [N,T,C] → the features of each view, in order."""

    def __init__(self, windowing: Windowing, names: tuple[str, ...], config: dict[str, Any]) -> None:
        super().__init__()
        self.names = names
        spectral = [name for name in names if name != STATISTICS]
        self.eyes = views.Eyes(views.Layout.of(windowing)) if spectral else None
        made = [views.view(name, tuple(config["orders"])) for name in spectral]
        self.views = nn.ModuleList(made)
        self._per_channel = [view.features for view in made]
        self.normalise = self.statistics = None
        if STATISTICS in names:
            self.normalise = Normaliser.from_config(config["normalise"])
            kinds, channels = tuple(config["statistics"]), len(windowing.names)
            self.statistics = Statistics(windowing.length, channels, kinds, lifelong(windowing))

    def sizes(self) -> tuple[int, ...]:
        """Return the number of features of each view."""
        channels = len(self.eyes.layout.signals) if self.eyes is not None else 0
        found = [channels * features for features in self._per_channel]
        return (*found, self.statistics.features) if self.statistics is not None else tuple(found)

    def forward(self, window: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """Look at a batch."""
        found: list[Tensor] = []
        if self.eyes is not None:
            look = self.eyes(window, valid)
            found = [view(look) for view in self.views]
        if self.statistics is not None and self.normalise is not None:
            found.append(self.statistics(*self.normalise(window, valid)))
        return tuple(found)


class FaultClassifier(nn.Module):
    """``window``, ``valid`` float32 [N,T,C] → ``(probabilities,)`` float32 [N,K].

    ``heads`` belong to the fronts' views in order. Buffer ``temperature`` [1] sharpens (below 1) or softens the mean.
    """

    temperature: Tensor

    def __init__(self, fronts: Fronts, heads: list[Heads]) -> None:
        super().__init__()
        self.fronts = fronts
        self.heads = nn.ModuleList(heads)
        self.register_buffer("temperature", torch.ones(1))

    def forward(self, window: Tensor, valid: Tensor) -> tuple[Tensor]:
        """Return the probabilities, as the task's only output."""
        return (self.probabilities(self.fronts(window, valid)),)

    def probabilities(self, features: tuple[Tensor, ...]) -> Tensor:
        """Return what the views say together, [N,K]."""
        said = [head(part) for head, part in zip(self.heads, features, strict=True)]
        return sharpened(torch.stack(said).mean(0), self.temperature)


def sharpened(probabilities: Tensor, temperature: Tensor) -> Tensor:
    """Return p^(1/temperature), made to add up to 1 again."""
    return torch.softmax(torch.log(torch.clamp(probabilities, min=_TINY)) / temperature, dim=-1)


def build(task: Task, windowing: Windowing, config: dict[str, Any]) -> FaultClassifier:
    """Build an untrained one (see `registry.build`).

    ``config``: ``views`` in order (`views.NAMES`, then ``statistics``), ``orders``, ``width``, ``members``,
    ``dropout``; with ``statistics`` also ``normalise`` and ``statistics``.

    Raises:
        UserError: Windows that spectra cannot be made of.
    """
    fronts = Fronts(windowing, tuple(config["views"]), config)
    heads = [
        Heads(size, len(task.labels), int(config["width"]), int(config["members"]), float(config["dropout"]))
        for size in fronts.sizes()
    ]
    return FaultClassifier(fronts, heads)

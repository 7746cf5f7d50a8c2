"""Training several small nets at once, each on its own rows: one batched product instead of a loop over nets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edge_sft.errors import DataError
from edge_sft.models.sensors.mlp import Members
from edge_sft.progress import Progress

_DEAD = 1e-6
_WARM_UP = 0.1  # share of the steps in which the learning rate rises; afterwards it falls along a cosine
_CHUNK = 4096


@dataclass(frozen=True)
class Schedule:
    """How nets are trained; ``channel_drop`` is the share of rows that learn with one channel missing."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    dropout: float
    channel_drop: float
    seed: int


@dataclass(frozen=True)
class Material:
    """What nets learn from.

    Attributes:
        features: Raw features [n, F].
        target: What they shall say, [n] in [0, 1].
        rows: For each net the rows it may see.
        missing: Raw features of a window without anything valid, [F].
        channel_of: For each feature the channel it comes from.
        always: Channels that are never dropped (age).
        replay: Features [m, F] and target [m] of which ``replay_share`` of each batch is drawn; None without.
        replay_share: In [0, 1).
    """

    features: Tensor
    target: Tensor
    rows: tuple[NDArray[np.int64], ...]
    missing: Tensor
    channel_of: tuple[int, ...]
    always: tuple[int, ...] = ()
    replay: tuple[Tensor, Tensor] | None = None
    replay_share: float = 0.0


def standardise(members: Members, features: NDArray[np.float32]) -> None:
    """Set the members' standardisation from training features; a feature without life says nothing."""
    wide = features.astype(np.float64)
    mean, std = wide.mean(axis=0), wide.std(axis=0)
    scale = np.where(std <= _DEAD * np.maximum(np.abs(mean), 1.0), 0.0, 1 / np.maximum(std, 1e-30))
    members.mean.copy_(torch.from_numpy(mean))
    members.scale.copy_(torch.from_numpy(scale))


def train(members: Members, material: Material, schedule: Schedule, progress: Progress) -> None:
    """Train all nets from where they are, in place; the same arguments give the same bits.

    Raises:
        DataError: The loss is no number.
    """
    stack = _Stack(members)
    generator = torch.Generator().manual_seed(schedule.seed)
    groups: list[dict[str, Any]] = [{"params": stack.weights}, {"params": stack.biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups,
        lr=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=max(schedule.steps, 2), pct_start=_WARM_UP
    )
    batches = _Batches(members, material, schedule, generator)
    progress.start("Training", schedule.steps)
    for _ in range(schedule.steps):
        features, target = batches.draw()
        error = stack.forward(features, schedule.dropout, generator) - target
        loss = (error * error).mean(dim=1).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rate.step()
        progress.advance()
    if not torch.isfinite(loss):
        raise DataError(
            "training", "the loss is no number any more", "Lower train.learning_rate; look at the channels."
        )
    stack.unpack(members)


def each(members: Members, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what each net says, not cut to [0, 1], float64 [M, n]."""
    parts = []
    with torch.no_grad():
        for start in range(0, len(features), _CHUNK):
            seen = members.standardised(torch.from_numpy(features[start : start + _CHUNK]))
            parts.append(torch.cat([net(seen) for net in members.nets], dim=1))
    return np.asarray(torch.cat(parts).double().numpy().T) if parts else np.zeros((len(members.nets), 0))


class _Batches:
    """Draws rows for each net and lets channels go missing."""

    def __init__(self, members: Members, material: Material, schedule: Schedule, generator: torch.Generator) -> None:
        self._generator = generator
        self._features = members.standardised(material.features)
        self._target = material.target
        self._rows = [torch.from_numpy(rows) for rows in material.rows]
        self._missing = members.standardised(material.missing)
        droppable = sorted(set(material.channel_of) - set(material.always))
        self._of = torch.tensor([[c == channel for c in material.channel_of] for channel in droppable])
        self._drop = schedule.channel_drop
        self._replay: tuple[Tensor, Tensor] | None = None
        self._replayed = 0
        if material.replay is not None:
            self._replay = members.standardised(material.replay[0]), material.replay[1]
            self._replayed = round(schedule.batch_size * material.replay_share)
        self._own = schedule.batch_size - self._replayed

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return features [M, B, F] and target [M, B]."""
        index = torch.stack([rows[self._integers(len(rows), self._own)] for rows in self._rows])
        features, target = self._features[index], self._target[index]
        if self._replay is not None and self._replayed:
            again = self._integers(len(self._replay[1]), self._replayed * len(self._rows)).reshape(len(self._rows), -1)
            features = torch.cat([features, self._replay[0][again]], dim=1)
            target = torch.cat([target, self._replay[1][again]], dim=1)
        return self._dropped(features) if self._drop else features, target

    def _dropped(self, features: Tensor) -> Tensor:
        flat = features.reshape(-1, features.shape[-1])
        hit = self._integers(len(flat), round(self._drop * len(flat)))  # few rows: only they are touched
        channel = self._integers(len(self._of), len(hit))
        flat[hit] = torch.where(self._of[channel], self._missing, flat[hit])
        return flat.reshape(features.shape)

    def _integers(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self._generator)


class _Stack:
    """The members' parameters side by side: weights [M, in, out], biases [M, 1, out]."""

    def __init__(self, members: Members) -> None:
        linears = [[layer for layer in net if isinstance(layer, nn.Linear)] for net in _nets(members)]
        self.weights, self.biases = [], []
        for layers in zip(*linears, strict=True):
            self.weights.append(nn.Parameter(torch.stack([layer.weight.detach().T for layer in layers]).clone()))
            self.biases.append(nn.Parameter(torch.stack([layer.bias.detach()[None] for layer in layers]).clone()))

    def forward(self, features: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
        """Return [M, B] for features [M, B, F]."""
        x = features
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = functional.silu(torch.baddbmm(bias, x, weight))
            if dropout:
                # one mask for all nets: they see different rows, and drawing it five times took most of the time
                kept = torch.rand(x.shape[1:], generator=generator) >= dropout
                x = x * (kept.float() / (1 - dropout))
        return torch.baddbmm(self.biases[-1], x, self.weights[-1]).squeeze(-1)

    def unpack(self, members: Members) -> None:
        """Write the parameters back."""
        with torch.no_grad():
            for number, net in enumerate(_nets(members)):
                layers = [layer for layer in net if isinstance(layer, nn.Linear)]
                for layer, weight, bias in zip(layers, self.weights, self.biases, strict=True):
                    layer.weight.copy_(weight[number].T)
                    layer.bias.copy_(bias[number, 0])


def _nets(members: Members) -> list[nn.Sequential]:
    return [net for net in members.nets if isinstance(net, nn.Sequential)]

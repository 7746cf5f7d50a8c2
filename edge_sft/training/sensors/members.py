"""Training several small nets, each on its own rows: chains of layers at once as batched products, others in turn."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edge_sft.errors import DataError
from edge_sft.models.sensors.mlp import Columns, Members
from edge_sft.progress import Progress

_DEAD = 1e-6
_WARM_UP = 0.1  # share of the steps in which the learning rate rises; afterwards it falls along a cosine
_CHUNK = 4096
_GENTLE = 20  # steps: after a pause the optimiser knows no sizes, and full steps would undo what was learnt
_SHARE = 0.375  # of a batch for nets that look over time: by cross-validation as good, in a third of the time


@dataclass(frozen=True)
class Schedule:
    """How nets are trained; ``channel_drop`` is the share of rows that learn with one channel missing.

    ``begun`` and ``whole`` make the steps part of a longer course of learning rates: so many were made before, and so
    many there are in all (None = these are all). ``proximal`` pulls towards where these steps began.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    dropout: float
    channel_drop: float
    seed: int
    begun: int = 0
    whole: int | None = None
    proximal: float = 0.0


@dataclass(frozen=True)
class Material:
    """What nets learn from.

    Attributes:
        features: Raw features [n, F].
        target: What they shall say, [n] in [0, 1].
        rows: For each net the rows it may see.
        missing: Raw features of a window without anything valid, [F].
        channel_of: For each feature the channel it comes from; -1 = from none.
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


def standardise(members: Members, features: NDArray[np.float32], ready: list[bool] | None = None) -> None:
    """Set the members' standardisation from training features; a feature without life says nothing.

    Features that are ``ready`` stay as they are.
    """
    wide = features.astype(np.float64)
    mean, std = wide.mean(axis=0), wide.std(axis=0)
    scale = np.where(std <= _DEAD * np.maximum(np.abs(mean), 1.0), 0.0, 1 / np.maximum(std, 1e-30))
    if ready is not None:
        mean, scale = np.where(ready, 0.0, mean), np.where(ready, 1.0, scale)
    members.mean.copy_(torch.from_numpy(mean))
    members.scale.copy_(torch.from_numpy(scale))


def train(members: Members, material: Material, schedule: Schedule, progress: Progress) -> float:
    """Train all nets from where they are, in place; the same arguments give the same bits.

    Returns:
        The mean square error over the steps and nets.

    Raises:
        DataError: The loss is no number.
    """
    batched = [number for number, net in enumerate(members.nets) if _linears(net)]
    others = [number for number in range(len(members.nets)) if number not in batched]
    progress.start("Training", schedule.steps * ((len(batched) > 0) + len(others)))
    lost = 0.0
    if batched:
        lost += _train(
            _Stack([members.nets[number] for number in batched]), members, material, batched, schedule, progress
        )
    smaller = replace(schedule, batch_size=max(2, int(schedule.batch_size * _SHARE)))
    for number in others:  # one after the other: their batches would not fit into a processor's cache
        with torch.random.fork_rng(devices=[]):  # layers' dropout knows only torch's own generator
            torch.manual_seed(schedule.seed)
            lost += _train(_Alone(members.nets[number]), members, material, [number], smaller, progress)
    return lost / max(len(members.nets), 1)


def _train(
    learner: _Stack | _Alone,
    members: Members,
    material: Material,
    which: list[int],
    schedule: Schedule,
    progress: Progress,
) -> float:
    """Train some of the nets; returns the sum of their mean losses."""
    generator = torch.Generator().manual_seed(schedule.seed)
    groups: list[dict[str, Any]] = [{"params": learner.weights}, {"params": learner.biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups,
        lr=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
    )
    rate = _Rate(optimizer, schedule)
    began = [part.detach().clone() for group in groups for part in group["params"]] if schedule.proximal else []
    lost = torch.zeros(())
    own = replace(material, rows=tuple(material.rows[number] for number in which))
    batches = _Batches(members, own, schedule, generator)
    for _ in range(schedule.steps):
        features, target = batches.draw()
        error = learner.forward(features, schedule.dropout, generator) - target
        loss = (error * error).mean(dim=1).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for part, before in zip((*learner.weights, *learner.biases) if began else (), began, strict=True):
            part.grad.add_(part.detach() - before, alpha=schedule.proximal)  # type: ignore[union-attr]
        optimizer.step()
        rate.step()
        lost += loss.detach()
        progress.advance()
    if not torch.isfinite(loss):
        raise DataError(
            "training", "the loss is no number any more", "Lower train.learning_rate; look at the channels."
        )
    learner.finish()
    return float(lost) / max(schedule.steps, 1)


class _Rate:
    """The course of learning rates, or a part of it; a part that is not the first begins gently."""

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule) -> None:
        whole = schedule.steps if schedule.whole is None else schedule.whole
        self._optimizer, self._steps = optimizer, 0
        self._gentle = _GENTLE if schedule.begun else 0
        self._course = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, schedule.learning_rate, total_steps=max(whole, 2), pct_start=_WARM_UP
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it suspects a mistake where the course goes on before the first step
            for _ in range(min(schedule.begun, whole - 1)):
                self._course.step()
        self._soften()

    def step(self) -> None:
        """Go on to the next step's rate."""
        self._steps += 1
        self._course.step()
        self._soften()

    def _soften(self) -> None:
        if self._steps < self._gentle:
            for group in self._optimizer.param_groups:
                group["lr"] *= (self._steps + 1) / self._gentle


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
        droppable = sorted({channel for channel in material.channel_of if channel >= 0} - set(material.always))
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
    """Chains of linear layers side by side: weights [M, in, out], biases [M, 1, out]; all see the same columns."""

    def __init__(self, nets: list[nn.Module]) -> None:
        self._linears = [_linears(net) for net in nets]
        self._columns = next((layer for layer in nets[0].children() if isinstance(layer, Columns)), None)
        self.weights, self.biases = [], []
        for layers in zip(*self._linears, strict=True):
            self.weights.append(nn.Parameter(torch.stack([layer.weight.detach().T for layer in layers]).clone()))
            self.biases.append(nn.Parameter(torch.stack([layer.bias.detach()[None] for layer in layers]).clone()))

    def forward(self, features: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
        """Return [M, B] for features [M, B, F]."""
        x = features if self._columns is None else self._columns(features)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = functional.silu(torch.baddbmm(bias, x, weight))
            if dropout:
                # one mask for all nets: they see different rows, and drawing it five times took most of the time
                kept = torch.rand(x.shape[1:], generator=generator) >= dropout
                x = x * (kept.float() / (1 - dropout))
        return torch.baddbmm(self.biases[-1], x, self.weights[-1]).squeeze(-1)

    def finish(self) -> None:
        """Write the parameters back."""
        with torch.no_grad():
            for number, layers in enumerate(self._linears):
                for layer, weight, bias in zip(layers, self.weights, self.biases, strict=True):
                    layer.weight.copy_(weight[number].T)
                    layer.bias.copy_(bias[number, 0])


class _Alone:
    """Any other net, trained in place; its dropout draws from torch's own generator."""

    def __init__(self, net: nn.Module) -> None:
        self._net = net.train()
        self.weights = [part for part in net.parameters() if part.dim() > 1]
        self.biases = [part for part in net.parameters() if part.dim() == 1]

    def forward(self, features: Tensor, dropout: float, _: torch.Generator) -> Tensor:
        """Return [1, B] for features [1, B, F]."""
        for layer in self._net.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = dropout
        said: Tensor = self._net(features[0])
        return said.T

    def finish(self) -> None:
        """Stop dropping out."""
        self._net.eval()


def _linears(net: nn.Module) -> list[nn.Linear]:
    """Return the layers of a plain chain; none where it is another net."""
    return [layer for layer in net.children() if isinstance(layer, nn.Linear)]

"""Fitting the small nets of a fault classifier, and judging them on machines they did not hear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edge_sft.models.sensors.classifier import Heads
from edge_sft.training.sensors.examples import Examples
from edge_sft.training.sensors.folds import balanced_weights, group_folds

Floats = NDArray[np.float64]
# Noise on the standardised features and softened labels: a dozen bearings must not be learnt by heart.
_NOISE = 0.3
_SMOOTHING = 0.1
_DEAD = 1e-6


@dataclass(frozen=True)
class Training:
    """How nets are fitted; see `edge_sft.sensor_recipe.SensorTrain`.

    ``known`` are the labels that the loss tells apart, rising; () = all. A site without windows of a label that others
    have would unlearn it by every step (Li and Zhan 2021, FedRS).
    """

    labels: int
    width: int
    members: int
    dropout: float
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    known: tuple[int, ...] = ()


def fit_heads(examples: Examples, how: Training) -> list[Heads]:
    """Fit nets for each view to labelled windows; classes weigh alike, and machines within a class.

    Each view's nets have a loss of their own, so any of the views may be left out afterwards. The same seed gives the
    same nets.

    Returns:
        In eval mode, one `Heads` a view.
    """
    draw = torch.Generator().manual_seed(how.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)  # weights and dropout
        heads = fresh_heads(examples, how)
        _fit(heads, examples, how, draw)
    return [head.eval() for head in heads]


def fresh_heads(examples: Examples, how: Training) -> list[Heads]:
    """Return untrained nets of each view in training mode, drawn from torch's generator, standardising as examples."""
    return [_standardising(part, how) for part in examples.features]


def fit_on(heads: list[Heads], examples: Examples, how: Training, *, proximal: float = 0.0) -> float:
    """Fit nets further from where they are, in place; returns the mean loss.

    ``proximal`` pulls them towards where they are now.
    """
    draw = torch.Generator().manual_seed(how.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        for head in heads:
            head.train()
        lost = _fit(heads, examples, how, draw, proximal)
    for head in heads:
        head.eval()
    return lost


def _fit(heads: list[Heads], examples: Examples, how: Training, draw: torch.Generator, proximal: float = 0.0) -> float:
    weights = torch.from_numpy(balanced_weights(examples.label, examples.group))
    labels = torch.from_numpy(np.searchsorted(how.known, examples.label) if how.known else examples.label)
    seen = [head.standardised(part) for head, part in zip(heads, examples.features, strict=True)]
    parameters = [parameter for head in heads for parameter in head.parameters()]
    began = [parameter.detach().clone() for parameter in parameters] if proximal else []
    optimizer = torch.optim.AdamW(parameters, lr=how.learning_rate, weight_decay=how.weight_decay)
    lost = torch.zeros(())
    for _ in range(how.steps):
        batch = torch.multinomial(weights, how.batch_size, replacement=True, generator=draw)
        loss = sum(
            (_loss(head, part[batch], labels[batch], draw, how.known) for head, part in zip(heads, seen, strict=True)),
            torch.zeros(()),
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter, before in zip(parameters if began else (), began, strict=True):
            parameter.grad.add_(parameter.detach() - before, alpha=proximal)  # type: ignore[union-attr]
        optimizer.step()
        lost += loss.detach()
    return float(lost) / max(how.steps, 1)


def _standardising(features: Tensor, how: Training) -> Heads:
    head = Heads(features.shape[1], how.labels, how.width, how.members, how.dropout)
    spread = features.std(0, correction=0)
    head.mean.copy_(features.mean(0))
    head.scale.copy_(torch.where(spread > _DEAD, 1 / torch.clamp(spread, min=_DEAD), torch.zeros_like(spread)))
    return head.train()


def _loss(head: Heads, seen: Tensor, labels: Tensor, draw: torch.Generator, known: tuple[int, ...]) -> Tensor:
    noisy = seen + _NOISE * torch.randn(seen.shape, generator=draw)
    logits = head.logits(noisy)  # [members,N,K]
    logits = logits[..., list(known)] if known else logits
    many = labels.repeat(len(logits))
    return functional.cross_entropy(logits.flatten(0, 1), many, label_smoothing=_SMOOTHING) * len(logits)


def predict(heads: list[Heads], examples: Examples) -> Floats:
    """Return what each view says, float64 [views, n, K]."""
    with torch.inference_mode():
        said = [head(part) for head, part in zip(heads, examples.features, strict=True)]
    return torch.stack(said).double().numpy()


def left_out(examples: Examples, how: Training, folds: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Return what each view says of each window by nets that did not hear its machine, and of which windows.

    Returns:
        Probabilities float64 [views, n, K], 0 where never left out, and bool [n].
    """
    said = np.zeros((len(examples.features), len(examples), how.labels))
    heard = np.zeros(len(examples), dtype=np.bool_)
    for out in group_folds(examples.label, examples.group, folds, how.seed):
        said[:, out] = predict(fit_heads(examples.take(~out), how), examples.take(out))
        heard |= out
    return said, heard


def balanced_accuracy(probabilities: Floats, labels: NDArray[np.int64], groups: NDArray[np.int64]) -> float:
    """Return the mean over classes of the mean over their machines of the share named right; NaN without windows."""
    if len(labels) == 0:
        return float("nan")
    right = probabilities.argmax(-1) == labels
    weights = balanced_weights(labels, groups)
    return float((right * weights).sum() / weights.sum())


def votes(
    probabilities: Floats, labels: NDArray[np.int64], runs: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Let a recording's windows vote: mean probabilities [R,K], labels [R] and the recordings' numbers [R].

    A recording whose windows bear different labels counts once for each.
    """
    keys = np.unique(np.stack([runs, labels], axis=1), axis=0)
    means = [probabilities[(runs == run) & (labels == label)].mean(0) for run, label in keys]
    voted = np.stack(means) if means else np.zeros((0, probabilities.shape[-1]))
    return voted, keys[:, 1], keys[:, 0]

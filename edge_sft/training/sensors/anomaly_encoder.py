"""Learning what a channel's course looks like, from healthy rows alone: neighbours in time near, others far.

The method is PaAno's (Park and Kang, ICLR 2026), the code our own. A patch's positive is the same channel a step or two
later or earlier, its negative the patch of the batch that is farthest from it (a hard negative may well be the same
state of the machine). At first the net also has to tell which patch came directly before, which keeps it from
collapsing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import cos, pi

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edge_sft.data.sensors.dataset import Run
from edge_sft.models.sensors.encoder import PatchEncoder, patches
from edge_sft.progress import Progress
from edge_sft.sensor_recipe import SensorRecipe
from edge_sft.slots.commissioning import Healthy, statistics
from edge_sft.slots.memories import spread
from edge_sft.training.sensors.windows import Windows, cut_run

_AUTO_RATE = 3e-3
_AUTO_STEPS = 400
_RADIUS = 2  # steps of the window's hop within which a patch is still the same
_MARGIN = 0.5  # of the cosine distance
_PRETEXT_SHARE = 0.1  # of the steps, fading; afterwards neighbours alone teach
_RANDOM_PAIRS = 5
_FINAL_RATE = 0.1
_GAPPY = 0.2  # share of patches that begin later, as a window does after a gap
# Windows that teach, over all runs, in so many stretches of each: a net of 9,000 numbers learns nothing from more.
_MOST_WINDOWS = 20_000
_LEAST_WINDOWS = 400
_STRETCHES = 4
_MOST_BYTES = 512 * 2**20


@dataclass(frozen=True)
class _Stretch:
    """Patches of one machine, float32 [n,C,2,T], in order of time, and at which step of the windows' hop each ends;
    ``before`` steps earlier a patch ended where this one begins.
    """

    patches: Tensor
    step: Tensor
    before: int


def learn(recipe: SensorRecipe, healthy: Sequence[Healthy], progress: Progress) -> PatchEncoder:
    """Train the encoder on healthy stretches, each normalised by its own mean and deviation as a machine's would be.

    Args:
        recipe: ``model.embedding``, and of ``train`` the steps (``auto`` = 400), batch size (patches), learning rate,
            weight decay and seed.
        healthy: Windows of one machine each, in order of time; of those that are judged, none.
        progress: Told step by step.

    Returns:
        The net in eval mode; an untrained one where no stretch is long enough.
    """
    course = Course.of(recipe, healthy)
    if course.stretches:
        progress.start("learning what channels look like", course.steps)
        course.go(0, course.steps, whole=course.steps, seed=recipe.train.seed, progress=progress)
    return course.encoder.eval()


@dataclass(frozen=True)
class Course:
    """The encoder being taught: the nets, the stretches that teach, and how many steps the recipe asks for."""

    recipe: SensorRecipe
    encoder: PatchEncoder
    heads: _Heads
    stretches: tuple[_Stretch, ...]
    steps: int

    @classmethod
    def of(cls, recipe: SensorRecipe, healthy: Sequence[Healthy]) -> Course:
        """Draw the nets from the recipe's seed and lay out what teaches; stretches that are too short are left out."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.train.seed)
            encoder = PatchEncoder(recipe.window.length, recipe.model.embedding)
            heads = _Heads(recipe.model.embedding)
        found = (_stretch(recipe, part) for part in healthy)
        long_enough = tuple(one for one in found if len(one.patches) > 2 * _RADIUS)
        steps = _AUTO_STEPS if recipe.train.steps == "auto" else recipe.train.steps
        return cls(recipe, encoder, heads, long_enough, steps)

    def go(self, begun: int, steps: int, *, whole: int, seed: int, progress: Progress, proximal: float = 0.0) -> float:
        """Make steps ``begun`` to ``begun + steps`` of a course of ``whole``, in place; returns the mean loss.

        ``proximal`` pulls the nets towards where these steps began.
        """
        how = self.recipe.train
        generator = torch.Generator().manual_seed(seed)
        parameters = [*self.encoder.train().parameters(), *self.heads.parameters()]
        began = [parameter.detach().clone() for parameter in parameters] if proximal else []
        highest = _AUTO_RATE if how.learning_rate == "auto" else how.learning_rate
        optimizer = torch.optim.AdamW(parameters, lr=highest, weight_decay=how.weight_decay)
        lost = torch.zeros(())
        for step in range(begun, begun + steps):
            fraction = step / whole
            rate = _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + cos(pi * fraction))
            for group in optimizer.param_groups:
                group["lr"] = highest * rate
            batch = _draw(self.stretches, how.batch_size, generator)
            loss = _loss(self.encoder, self.heads, batch, max(0.0, 1 - fraction / _PRETEXT_SHARE), generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for parameter, before in zip(parameters if began else (), began, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - before, alpha=proximal)
            optimizer.step()
            lost += loss.detach()
            progress.advance()
        self.encoder.eval()
        return float(lost) / max(steps, 1)


class _Heads(nn.Module):
    """What only training needs: a projection in which distances are taught, and who came before whom."""

    def __init__(self, embedding: int) -> None:
        super().__init__()
        wide = 8 * embedding
        self.projection = nn.Sequential(nn.Linear(embedding, wide), nn.ReLU(), nn.Linear(wide, wide))
        self.follows = nn.Linear(2 * embedding, 1)


@dataclass(frozen=True)
class _Batch:
    """Patches [b,2,T]: anchors, their neighbours, what came directly before, and which of those there were."""

    anchor: Tensor
    positive: Tensor
    earlier: Tensor
    known: Tensor


def _stretch(recipe: SensorRecipe, part: Healthy) -> _Stretch:
    length = recipe.window.length
    before = max(1, round(length / recipe.window.hop))
    if len(part) == 0:
        return _Stretch(torch.zeros(0, 1, 2, length), torch.zeros(0), before)
    watched = part.valid.max(axis=(0, 1)) > 0
    mean, std = statistics(part, watched)
    made = patches(
        torch.from_numpy(part.values),
        torch.from_numpy(part.valid),
        torch.from_numpy(mean),
        torch.from_numpy(std),
        length,
    )
    by_channel = made.reshape(len(part), -1, 2, length)[:, torch.from_numpy(np.flatnonzero(watched))]
    step = np.rint((part.end - part.end[0]) / (recipe.window.period_s * recipe.window.hop))
    return _Stretch(by_channel.contiguous(), torch.from_numpy(step), before)


def _draw(stretches: Sequence[_Stretch], size: int, generator: torch.Generator) -> _Batch:
    """Draw patches: every stretch as often as it has windows, every channel alike."""
    counts = torch.tensor([float(len(one.patches)) for one in stretches])
    which = torch.multinomial(counts, size, replacement=True, generator=generator)
    parts = [_of(stretches[number], int((which == number).sum()), generator) for number in sorted(set(which.tolist()))]
    made = _Batch(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("anchor", "positive", "earlier", "known"))
    )
    return _Batch(_gappy(made.anchor, generator), _gappy(made.positive, generator), made.earlier, made.known)


def _of(one: _Stretch, count: int, generator: torch.Generator) -> _Batch:
    windows, channels = one.patches.shape[:2]
    at = torch.randint(windows, (count,), generator=generator)
    channel = torch.randint(channels, (count,), generator=generator)
    step = torch.randint(1, _RADIUS + 1, (count,), generator=generator)
    step = torch.where(torch.rand(count, generator=generator) < 0.5, step, -step)
    near = (at + step).clamp(0, windows - 1)
    near = torch.where((one.step[near] - one.step[at]).abs() <= _RADIUS, near, at)  # across a gap: only itself
    earlier = (at - one.before).clamp(min=0)
    taken = one.patches[at, channel], one.patches[near, channel], one.patches[earlier, channel]
    return _Batch(*taken, one.step[at] - one.step[earlier] == one.before)


def _gappy(made: Tensor, generator: torch.Generator) -> Tensor:
    """Take away the beginnings of some patches, as a gap does."""
    count, _, length = made.shape
    first = (torch.rand(count, generator=generator) * 0.5 * length).long()
    some = torch.rand(count, generator=generator) < _GAPPY
    there = (torch.arange(length)[None] >= torch.where(some, first, 0)[:, None]).to(made.dtype)
    return made * there.unsqueeze(1)


def _loss(encoder: PatchEncoder, heads: _Heads, batch: _Batch, pretext: float, generator: torch.Generator) -> Tensor:
    count = len(batch.anchor)
    given = [batch.anchor, batch.positive, *([batch.earlier] if pretext > 0 else [])]
    embedded = encoder(torch.cat(given))
    anchor, positive = embedded[:count], embedded[count : 2 * count]
    a, p = (functional.normalize(heads.projection(part), dim=1) for part in (anchor, positive))
    apart = 1 - a @ p.transpose(0, 1)
    farthest = apart.masked_fill(torch.eye(count, dtype=torch.bool), -1.0).amax(dim=1)
    loss = functional.relu(apart.diagonal() - farthest + _MARGIN).mean()
    if pretext > 0:
        loss = loss + pretext * _order(heads, anchor, embedded[2 * count :], batch.known, generator)
    return loss


def _order(heads: _Heads, anchor: Tensor, earlier: Tensor, known: Tensor, generator: torch.Generator) -> Tensor:
    """Binary cross-entropy of telling what came directly before from what did not."""
    count = len(anchor)
    other = (
        torch.arange(count).repeat(_RANDOM_PAIRS)
        + torch.randint(1, count, (count * _RANDOM_PAIRS,), generator=generator)
    ) % count
    wrong = heads.follows(torch.cat([anchor.repeat(_RANDOM_PAIRS, 1), anchor[other]], dim=1))
    right = heads.follows(torch.cat([anchor, earlier], dim=1)).squeeze(1)
    said = (functional.softplus(-right) * known).sum() / known.sum().clamp(min=1)
    return said + functional.softplus(wrong).mean()


def healthy_stretches(recipe: SensorRecipe, runs: Sequence[Run]) -> list[Healthy]:
    """Return what may teach, one entry a run: windows not labelled abnormal, in a few stretches of a long run."""
    window = recipe.window
    size = 8 * window.length * len(recipe.data.channels)
    most = min(_MOST_WINDOWS, _MOST_BYTES // size)
    each = max(_LEAST_WINDOWS, most // max(1, len(runs)))
    return [_healthy(recipe, runs[at], each) for at in spread(len(runs), max(1, most // _LEAST_WINDOWS))]


def _healthy(recipe: SensorRecipe, run: Run, most: int) -> Healthy:
    parts = [cut_run(recipe.windowing(), part) for part in _parts(recipe, run, most)]
    kept = [part.take(_not_abnormal(part)) for part in parts]
    return Healthy(*(np.concatenate([getattr(part, name) for part in kept]) for name in ("values", "valid", "end")))


def _not_abnormal(windows: Windows) -> NDArray[np.bool_]:
    return np.ones(len(windows), dtype=np.bool_) if windows.label is None else np.asarray(windows.label != 1)


def _parts(recipe: SensorRecipe, run: Run, most: int) -> list[Run]:
    """Return the run, or stretches evenly over it that give about ``most`` windows."""
    finite = run.time[np.isfinite(run.time)]
    steps = max(1.0, (finite.max() - finite.min()) / recipe.window.period_s) if len(finite) else 1.0
    rows = len(run.time) / steps  # a grid step
    whole = int(rows * (most * recipe.window.hop + _STRETCHES * recipe.window.length)) + 1
    if len(run.time) <= whole:
        return [run]
    count = whole // _STRETCHES
    firsts = np.linspace(0, len(run.time) - count, _STRETCHES).astype(int)
    return [
        replace(
            run,
            time=run.time[first : first + count],
            values=run.values[first : first + count],
            labels=None if run.labels is None else run.labels[first : first + count],
            rul=None,
        )
        for first in firsts
    ]

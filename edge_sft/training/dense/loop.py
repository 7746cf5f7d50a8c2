"""Training step after step: validated, kept on disk, ended when validation says so.

Every random number is a function of (seed, step, place in the batch), so what survives a kill needs no generators.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_sft.errors import DataError
from edge_sft.progress import Progress
from edge_sft.recipe import Recipe
from edge_sft.training import schedule
from edge_sft.training.dense.augmenting import augmented
from edge_sft.training.dense.judging import ask, merit
from edge_sft.training.dense.network import DenseNetwork
from edge_sft.training.dense.samples import Drawn, Samples, kinds
from edge_sft.training.loop import BETAS, Outcome
from edge_sft.training.machine import Meter
from edge_sft.training.network import Parameters
from edge_sft.training.state import Facts, Store

Loss = Callable[[tuple[Tensor, ...], list[Drawn]], Tensor]

EPOCHS, FEWEST, MOST = 40, 200, 3000
# a billion input pixels are about fifteen minutes of Lite0 and its pyramid on two cores
_PIXELS = 1_000_000_000
_GPU_TIMES = 10
_OFTEN = 12  # validations in all


def step_count(recipe: Recipe, tiles: int, *, gpu: bool) -> int:
    """Return the number of optimiser steps, at most; early stopping may end sooner."""
    train, geometry = recipe.train, recipe.image.preprocess()
    if train.steps != "auto":
        return train.steps
    times = _GPU_TIMES if gpu else 1
    wanted = math.ceil(EPOCHS * tiles / train.batch_size)
    affordable = min(MOST, _PIXELS // (geometry.height * geometry.width * train.batch_size)) * times
    return max(FEWEST, min(wanted, affordable))


class DenseTraining:
    """One training from a start that the store or the caller gives."""

    def __init__(
        self,
        network: DenseNetwork,
        recipe: Recipe,
        train: Samples,
        val: Samples,
        loss: Loss,
        *,
        store: Store,
        meter: Meter,
        progress: Progress,
        save_every_s: float,
    ) -> None:
        self._network, self._recipe, self._train = network, recipe, recipe.train
        self._samples, self._val, self._loss = train, val, loss
        self._store, self._meter, self._progress = store, meter, progress
        self._save_every_s = save_every_s
        self.steps = step_count(recipe, len(train), gpu=network.device.type == "cuda")
        self._names = list(network.learning)
        groups = network.groups(recipe.train)
        self._optimizer = torch.optim.AdamW(groups, lr=recipe.train.learning_rate, betas=BETAS, foreach=True)
        self._start = network.copy()
        self._ema, self._best = network.copy(), network.copy()

    def run(self, facts: Facts, tensors: dict[str, Tensor]) -> Outcome:
        """Train to the end, from the beginning (no tensors) or from a stored state.

        Raises:
            DataError: The loss is no number any more.
            DeviceError: The disk refuses the state.
        """
        if tensors:
            self._restore(tensors)
        order = self._order()
        every, saved = max(1, math.ceil(self.steps / _OFTEN)), time.monotonic()
        self._progress.start("Training", self.steps)
        self._progress.advance(facts.step)
        while not facts.finished and facts.step < self.steps:
            self._step(facts.step, order[facts.step])
            facts.step += 1
            note = ""
            if facts.step % every == 0 or facts.step == self.steps:
                note = self._judge(facts)
                facts.finished = facts.step == self.steps or facts.since_best >= self._train.patience
            if facts.finished or (note and time.monotonic() - saved >= self._save_every_s):
                self._save(facts)
                saved = time.monotonic()
            self._progress.advance(1, note)
        return Outcome(self._start, self._network.copy(), self._best, facts)

    def _order(self) -> NDArray[np.int64]:
        return schedule.order(
            kinds(self._samples, len(self._recipe.task.labels)),
            self._samples.weights,
            steps=self.steps,
            batch=self._train.batch_size,
            balance=self._train.class_balance,
            seed=self._train.seed,
        )

    def _step(self, step: int, chosen: NDArray[np.int64]) -> None:
        torch.manual_seed(schedule.step_seed(self._train.seed, step))
        images, drawn = self._batch(step, chosen)
        loss = self._loss(self._network.raw(images), drawn)
        if not math.isfinite(float(loss.detach())):
            raise DataError(
                f"training step {step + 1}",
                "the loss is not a number any more",
                'Lower train.learning_rate, or set train.precision = "fp32".',
            )
        self._optimizer.zero_grad(set_to_none=False)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(self._network.learning.values()), 10.0)
        factor = schedule.rate_factor(step, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = group["base"] * factor
        self._optimizer.step()
        self._average(step)

    def _batch(self, step: int, chosen: NDArray[np.int64]) -> tuple[Tensor, list[Drawn]]:
        images, drawn = [], []
        for place, index in enumerate(chosen):
            random = np.random.default_rng([self._train.seed, 3, step, place])
            one = augmented(self._samples.images[index], self._samples.drawn[index], self._recipe.augment, random)
            images.append(one[0])
            drawn.append(one[1])
        return torch.from_numpy(np.stack(images)), drawn

    @torch.no_grad()
    def _average(self, step: int) -> None:
        decay = min(self._train.ema_decay, (1 + step) / (10 + step))  # short memory while all still moves
        learning = self._network.learning
        torch._foreach_lerp_([self._ema[name] for name in self._names], [learning[n] for n in self._names], 1 - decay)

    def _judge(self, facts: Facts) -> str:
        """Validate the averaged parameters; remember them when they are the best so far."""
        raw = self._network.copy()
        self._network.put(self._ema)
        value = merit(ask(self._network, self._val, self._recipe.task.kind), self._val, len(self._recipe.task.labels))
        self._network.put(raw)
        facts.history.append({"step": facts.step, "merit": round(value, 6)})
        if value > facts.best_merit or not len(self._val):  # nothing to judge by: the newest average is best
            facts.best_merit, facts.best_step, facts.since_best = value, facts.step, 0
            self._best = {name: tensor.clone() for name, tensor in self._ema.items()}
        else:
            facts.since_best += 1
        return f"val {value:.3f}"

    def _save(self, facts: Facts) -> None:
        used = self._meter.usage()
        facts.wall_s, facts.cpu_s = used.wall_s, used.cpu_s
        tensors: dict[str, Tensor] = {}
        for kind, parameters in self._kinds():
            tensors |= {f"{kind}/{name}": value for name, value in parameters.items()}
        for name, value in self._network.learning.items():
            for key, item in self._optimizer.state.get(value, {}).items():
                tensors[f"adam/{key}/{name}"] = item
        self._store.save(facts, tensors)

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        for kind, parameters in self._kinds():
            for name in parameters:
                parameters[name] = tensors[f"{kind}/{name}"]
        self._network.put({name: tensors[f"raw/{name}"] for name in self._names})
        for name, value in self._network.learning.items():
            state: dict[str, Any] = {
                key.split("/")[1]: item
                for key, item in tensors.items()
                if key.startswith("adam/") and key.split("/", 2)[2] == name
            }
            if state:
                state["step"] = state["step"].cpu()
                self._optimizer.state[value] = state

    def _kinds(self) -> Iterator[tuple[str, Parameters]]:
        yield "start", self._start
        yield "raw", {name: value.detach() for name, value in self._network.learning.items()}
        yield "ema", self._ema
        yield "best", self._best

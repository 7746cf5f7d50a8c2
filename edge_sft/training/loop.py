"""Fine-tuning: step after step, validated, kept on disk, ended when validation says so.

Every random number is a function of (seed, step), so the state that survives a kill needs no generators.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edge_sft.errors import DataError
from edge_sft.progress import Progress
from edge_sft.recipe import AugmentSection, TrainSection
from edge_sft.training import schedule
from edge_sft.training.augment import augment
from edge_sft.training.machine import Meter
from edge_sft.training.merit import balanced_accuracy, merit
from edge_sft.training.network import Network, Parameters
from edge_sft.training.pictures import Pictures
from edge_sft.training.scoring import Scorer
from edge_sft.training.state import Facts, Store
from edge_sft.training.world import World

BETAS = (0.9, 0.99)
_GENTLE = 10  # steps


@dataclass(frozen=True)
class Outcome:
    """What fine-tuning ends with: the start, the last raw parameters, the best averaged ones, the facts."""

    start: Parameters
    raw: Parameters
    best: Parameters
    facts: Facts


class FineTuning:
    """One run of fine-tuning from a start that the store or the caller gives.

    ``known`` are the labels [k], rising, that the loss tells apart; None = all. A site without pictures of a label that
    others have would unlearn it by every step (Li and Zhan 2021, FedRS).
    """

    def __init__(
        self,
        network: Network,
        train: TrainSection,
        how: AugmentSection,
        pictures: Pictures,
        val: Pictures,
        *,
        store: Store,
        world: World,
        meter: Meter,
        progress: Progress,
        save_every_s: float,
        known: NDArray[np.int64] | None = None,
    ) -> None:
        self._network, self._train, self._how = network, train, how
        self._known = known
        self._pictures, self._val = pictures, val
        self._store, self._world, self._meter, self._progress = store, world, meter, progress
        self._save_every_s = save_every_s
        self._proximal = 0.0
        self._steps = schedule.step_count(
            train, len(pictures), pictures.images.shape[1] * pictures.images.shape[2], gpu=network.device.type == "cuda"
        )
        self._names = list(network.learning)
        self._optimizer = torch.optim.AdamW(network.groups(train), lr=train.learning_rate, betas=BETAS, foreach=True)
        world.share([value.data for value in network.learning.values()])
        self._start = network.copy()
        self._ema, self._best = network.copy(), network.copy()

    def run(self, facts: Facts, tensors: dict[str, Tensor]) -> Outcome:
        """Fine-tune to the end, from the beginning (no tensors) or from a stored state.

        Raises:
            DataError: The loss is no number any more.
            DeviceError: The disk refuses the state.
        """
        if tensors:
            self._restore(tensors)
        scorer = Scorer(self._network, self._val.images)
        order = self._order()
        every, saved = schedule.validate_every(self._steps), time.monotonic()
        self._progress.start("Fine-tuning", self._steps)
        self._progress.advance(facts.step)
        if not facts.finished and self._steps:
            scorer.keep()
        if not facts.finished and facts.step == 0:
            self._judge(scorer, facts)
        while not facts.finished and facts.step < self._steps:
            self._step(facts.step, order[facts.step])
            facts.step += 1
            note = ""
            if facts.step % every == 0 or facts.step == self._steps:
                note = self._judge(scorer, facts)
                facts.finished = facts.step == self._steps or facts.since_best >= self._train.patience
            if facts.finished or (note and time.monotonic() - saved >= self._save_every_s):
                self._save(facts)
                saved = time.monotonic()
            self._progress.advance(1, note)
        return Outcome(self._start, self._network.copy(), self._best, facts)

    def stretch(self, begun: int, steps: int, *, whole: int, proximal: float) -> float:
        """Make a part of a longer course, from the parameters as they are; nothing is judged or kept.

        Args:
            begun: How many steps of the course were made before.
            steps: How many to make now.
            whole: How many there are in all: what the learning rates and the order of pictures go by.
            proximal: How strongly it is pulled back to where this stretch began.

        Returns:
            The mean loss.

        Raises:
            DataError: The loss is no number any more.
        """
        self._steps, self._proximal = whole, proximal
        order = self._order()
        self._progress.start("Fine-tuning", steps)
        lost = 0.0
        for step in range(begun, begun + steps):
            # after a pause the optimiser knows no sizes: full steps would undo what was learnt
            gentle = min(1.0, (step - begun + 1) / _GENTLE) if begun else 1.0
            lost += self._step(step, order[step], gentle)
            self._progress.advance()
        return lost / max(steps, 1)

    def _order(self) -> NDArray[np.int64]:
        return schedule.order(
            self._pictures.labels,
            self._pictures.weights,
            steps=self._steps,
            batch=self._train.batch_size,
            balance=self._train.class_balance,
            seed=self._train.seed,
        )

    def _step(self, step: int, chosen: NDArray[np.int64], gentle: float = 1.0) -> float:
        """Make one step; returns its loss."""
        seed = schedule.step_seed(self._train.seed, step)
        torch.manual_seed(seed)  # dropout
        generator = torch.Generator().manual_seed(seed)
        rank, size = self._world.rank, self._world.size
        mine = chosen[rank::size]
        images = torch.from_numpy(self._pictures.images[mine]).to(self._network.device)
        labels = torch.from_numpy(self._pictures.labels[mine]).to(self._network.device)
        images = augment(images, self._how, generator, rank=rank, size=size)
        self._network.classifier.dropout.train()
        logits = self._network.logits(self._network.lower(images))
        if self._known is not None:
            logits, labels = _among(self._known, logits, labels)
        each = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=self._train.label_smoothing)
        loss = each.sum() / len(chosen)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DataError(
                f"training step {step + 1}",
                "the loss is not a number any more",
                'Lower train.learning_rate, or set train.precision = "fp32".',
            )
        self._optimizer.zero_grad(set_to_none=False)
        loss.backward()  # type: ignore[no-untyped-call]
        learning = list(self._network.learning.values())
        self._world.sum(part.grad for part in learning if part.grad is not None)
        if self._proximal:
            self._pull()
        torch.nn.utils.clip_grad_norm_(learning, 5.0)
        factor = gentle * schedule.rate_factor(step, self._steps)
        for group in self._optimizer.param_groups:
            group["lr"] = group["base"] * factor
        self._optimizer.step()
        self._average(step)
        return value

    @torch.no_grad()
    def _pull(self) -> None:
        for name, part in self._network.learning.items():
            if part.grad is not None:
                part.grad.add_(part - self._start[name], alpha=self._proximal)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        decay = min(self._train.ema_decay, (1 + step) / (10 + step))  # short memory while all still moves
        learning = self._network.learning
        torch._foreach_lerp_([self._ema[name] for name in self._names], [learning[n] for n in self._names], 1 - decay)

    def _judge(self, scorer: Scorer, facts: Facts) -> str:
        """Validate the averaged parameters; remember them when they are the best so far."""
        raw = self._network.copy()
        self._network.put(self._ema)
        logits = scorer.logits()
        self._network.put(raw)
        value = self._world.agree(merit(logits, self._val.labels, self._val.weights))
        accuracy = balanced_accuracy(logits, self._val.labels)
        facts.history.append({"step": facts.step, "merit": round(value, 6), "balanced_accuracy": round(accuracy, 6)})
        if value > facts.best_merit or not len(self._val):  # nothing to judge by: the newest average is best
            facts.best_merit, facts.best_step, facts.since_best = value, facts.step, 0
            self._best = {name: tensor.clone() for name, tensor in self._ema.items()}
        else:
            facts.since_best += 1
        return f"val {accuracy:.3f}"

    def _save(self, facts: Facts) -> None:
        if self._world.rank != 0:
            return
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


def _among(known: NDArray[np.int64], logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits [N,k] of known labels, and the labels as places among them."""
    chosen = torch.from_numpy(known).to(logits.device)
    return logits[:, chosen], torch.searchsorted(chosen, labels)

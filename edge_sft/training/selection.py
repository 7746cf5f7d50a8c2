"""Which of several models is the one to keep, judged on validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sft.training.loop import Outcome
from edge_sft.training.merit import merit
from edge_sft.training.network import Network, Parameters
from edge_sft.training.pictures import Pictures
from edge_sft.training.scoring import Scorer

_BLENDS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Choice:
    """The model that was kept: its name, parameters and validation logits, and every candidate's merit."""

    name: str
    parameters: Parameters
    logits: NDArray[np.float32]
    merits: dict[str, float]


def choose(network: Network, outcome: Outcome, val: Pictures) -> Choice:
    """Judge the head on frozen features, the averaged and the raw fine-tuned weights, and blends of first and second.

    Blending start and end of fine-tuning in weight space (WiSE-FT, Wortsman et al. 2022) keeps what the
    pre-trained features knew: it is what holds up when validation parts are of other groups than training parts.
    """
    facts = outcome.facts
    candidates = {"head": outcome.start}
    if facts.best_step:  # else the averaged weights never were better than where they started
        candidates["averaged"] = outcome.best
        candidates |= {f"blend {share:.2f}": blend(outcome.start, outcome.best, share) for share in _BLENDS}
    if facts.step:
        candidates["raw"] = outcome.raw
    return best_of(network, candidates, val)


def best_of(network: Network, candidates: dict[str, Parameters], val: Pictures) -> Choice:
    """Judge candidates on validation and return the best; the first of equals, but ``averaged`` before all."""
    scorer = Scorer(network, val.images)
    scorer.keep()
    found: list[Choice] = []
    for name, parameters in candidates.items():
        network.put(parameters)
        logits = scorer.logits()
        found.append(Choice(name, parameters, logits, {name: round(merit(logits, val.labels, val.weights), 6)}))
    merits = {name: value for item in found for name, value in item.merits.items()}
    # without validation pictures all are equal: the averaged weights are best as a rule
    best = max(found, key=lambda item: (merits[item.name], item.name == "averaged"))
    return Choice(best.name, best.parameters, best.logits, merits)


def blend(start: Parameters, end: Parameters, share: float) -> Parameters:
    """Return ``start + share · (end − start)``."""
    return {name: torch.lerp(start[name], end[name], share) for name in start}

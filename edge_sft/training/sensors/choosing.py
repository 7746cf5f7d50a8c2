"""Which views of a vibration window speak together: chosen by machines that the nets did not hear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sft.metrics.calibration import fit_temperature
from edge_sft.models.sensors.classifier import STATISTICS
from edge_sft.models.sensors.views import NAMES
from edge_sft.training.sensors.examples import Examples
from edge_sft.training.sensors.folds import balanced_weights
from edge_sft.training.sensors.heads import Floats, Training, balanced_accuracy, left_out

# Which views may speak together; the first is the usual. They are learnt apart, so trying all costs one fit a fold.
MENU: tuple[tuple[str, ...], ...] = (
    NAMES,
    tuple(name for name in NAMES if name != "bands"),
    ("lines", "lines-white"),
    (*NAMES, STATISTICS),
    (STATISTICS,),
)
_WORTH = 0.02  # balanced accuracy by which another choice must be better than the usual: a dozen machines say no more


@dataclass(frozen=True)
class Chosen:
    """What cross-validation on the training machines found.

    Attributes:
        views: Places of the chosen views in all of them.
        tried: Balanced accuracy of every choice on machines left out, by the views' names.
        probabilities: What the chosen views said of windows left out, float64 [n,K].
        heard: Which windows were left out once, bool [n].
        temperature: That makes their mean mean what it says.
    """

    views: tuple[int, ...]
    tried: dict[str, float]
    probabilities: Floats
    heard: NDArray[np.bool_]
    temperature: float


def choose_views(known: Examples, names: tuple[str, ...], how: Training, folds: int) -> Chosen:
    """Choose by machines left out; the usual views unless others are better by more than chance would make them."""
    menu = [tuple(names.index(name) for name in views) for views in MENU if set(views) <= set(names)]
    said, heard = left_out(known, how, folds)
    if not heard.any():
        return Chosen(menu[0], {}, said.mean(0), heard, 1.0)
    label, group = known.label[heard], known.group[heard]
    tried = {views: balanced_accuracy(said[list(views)][:, heard].mean(0), label, group) for views in menu}
    best = max(menu, key=lambda views: (tried[views], -len(views)))
    views = best if tried[best] > tried[menu[0]] + _WORTH else menu[0]
    mean = said[list(views)].mean(0)
    temperature = fit_temperature(np.log(mean[heard] + 1e-7), label, balanced_weights(label, group))
    return Chosen(
        views, {joined(names, key): round(value, 4) for key, value in tried.items()}, mean, heard, temperature
    )


def joined(names: tuple[str, ...], views: tuple[int, ...]) -> str:
    """Name a choice."""
    return "+".join(names[place] for place in views)

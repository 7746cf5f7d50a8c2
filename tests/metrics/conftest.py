from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edge_sft.checkpoint import Scores
from edge_sft.task import Task, image_classification

Make = Callable[..., Scores]


@pytest.fixture
def task() -> Task:
    return image_classification(("good", "scratch", "dent"), ("good",), 32, 32)


@pytest.fixture
def binary() -> Task:
    return image_classification(("nok", "ok"), ("ok",), 32, 32)


@pytest.fixture
def make() -> Make:
    """Scores of a two-label task from each picture's evidence for a defect."""

    def scores(defects: list[float], goods: list[float], weights: list[float] | None = None) -> Scores:
        evidence = np.array([*defects, *goods])
        labels = np.array([0] * len(defects) + [1] * len(goods), dtype=np.int64)
        heavy = np.ones(len(evidence)) if weights is None else np.array(weights)
        probabilities = np.stack([evidence, 1 - evidence], axis=1) if len(evidence) else np.zeros((0, 2))
        names = [f"{index}.png" for index in range(len(evidence))]
        return Scores(names, labels, probabilities.astype(np.float32), heavy.astype(np.float32))

    return scores

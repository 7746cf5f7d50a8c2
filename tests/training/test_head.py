from __future__ import annotations

import numpy as np
import torch

from edge_sft.training.head import fit_head, fold_numbers
from edge_sft.training.merit import balanced_accuracy, merit


def test_head_separates_what_can_be_separated() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    features = torch.randn(90, 20, generator=generator) + 40
    features[torch.arange(90), labels] += 4
    head = fit_head(features, labels, torch.ones(90), [str(i) for i in range(90)], 3)
    logits = features @ head.weight.T + head.bias
    assert (logits.argmax(1) == labels).float().mean() > 0.95


def test_head_of_few_and_of_one_group() -> None:
    features, labels = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])
    for groups in (["a"] * 4, ["a", "b", "c", "d"]):
        head = fit_head(features, labels, torch.ones(4), groups, 2)
        assert torch.isfinite(head.weight).all()
        assert torch.isfinite(head.bias).all()


def test_folds_keep_groups_whole_and_spread_the_rare_class() -> None:
    labels = np.array([0] * 60 + [1] * 10)
    groups = [f"g{index // 2}" for index in range(70)]
    folds = fold_numbers(labels, groups, 5)
    for group in set(groups):
        assert len({folds[index] for index in range(70) if groups[index] == group}) == 1
    assert np.bincount(folds[labels == 1], minlength=5).tolist() == [2] * 5


def test_merit_prefers_the_surer_of_equals_and_ignores_scale() -> None:
    labels = np.array([0, 0, 1, 1])
    ones = np.ones(4, dtype=np.float32)
    sure = np.array([[3, 0], [3, 0], [0, 3], [3, 2.9]], dtype=np.float32)
    unsure = np.array([[0.1, 0], [3, 0], [0, 0.1], [3, 0]], dtype=np.float32)
    assert balanced_accuracy(sure, labels) == balanced_accuracy(unsure, labels) == 0.75
    assert merit(sure, labels, ones) > merit(unsure, labels, ones)
    assert abs(merit(sure, labels, ones) - merit(2 * sure, labels, ones)) < 0.01


def test_merit_of_nothing_is_nothing() -> None:
    nothing = np.empty((0, 3), dtype=np.float32)
    assert merit(nothing, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)) == 0.0
    assert balanced_accuracy(nothing, np.empty(0, dtype=np.int64)) == 0.0

"""The graph of a memory against the same arithmetic in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_sft.errors import UserError
from edge_sft.models.anomaly import build
from edge_sft.recipe import ModelSection
from edge_sft.slots import picture_memory

RANDOM = ModelSection(weights="random")


def test_the_graph_says_what_numpy_says() -> None:
    torch.manual_seed(0)
    detector, _ = build(RANDOM, (64, 96), examples=16)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (12, 64, 96, 3), dtype=np.uint8))
    with torch.inference_mode():
        features = detector.features(images).half().numpy()
        assert features.shape == (12, 24, detector.layout.features)
        groups = [str(index) for index in range(12)]
        memory = picture_memory.fit(features, groups, detector.layout, rate=0.2)
        score, cells, told = detector(images, torch.from_numpy(memory.bank))
    expected, places = picture_memory.score(told.numpy(), memory.bank, detector.layout)
    assert cells.shape == (12, 4, 6)
    np.testing.assert_allclose(score.numpy(), expected, rtol=2e-3)
    np.testing.assert_allclose(cells.flatten(1).numpy(), places, rtol=2e-2)


def test_stages_that_say_where_are_taken() -> None:
    detector, provenance = build(RANDOM, (64, 64), examples=16)
    assert detector.taps == (2, 3, 4, 5, 6)
    assert len(detector.stages) == 7
    assert provenance.backbone == "efficientnet_lite0"


def test_a_size_that_maps_do_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="no multiple of 32"):
        build(RANDOM, (100, 64), examples=16)

"""Overlap by region and by label: hand-made maps whose numbers follow from counting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_sft.errors import BugError
from edge_sft.metrics.segmentation import aupro, regions


def two_regions():
    mask = np.zeros((10, 10), np.uint8)
    mask[1:3, 1:3] = 1
    mask[6:9, 6:9] = 2
    return mask


def slow_aupro(maps, masks, limit):
    """By the definition: every threshold in turn."""
    scores = np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]
    x, y = [0.0], [0.0]
    good = np.concatenate([m[k == 0] for m, k in zip(maps, masks, strict=True)])
    for threshold in scores:
        overlaps = []
        for one, mask in zip(maps, masks, strict=True):
            count, numbers = regions(mask)
            overlaps += [float((one[numbers == number + 1] >= threshold).mean()) for number in range(count)]
        x.append(float((good >= threshold).mean()))
        y.append(float(np.mean(overlaps)))
    grid = np.array([*[v for v in x if v <= limit], limit])
    return np.trapezoid([*[b for a, b in zip(x, y, strict=True) if a <= limit], np.interp(limit, x, y)], grid) / limit


def test_a_map_that_is_its_mask_is_perfect():
    mask = two_regions()
    assert aupro([mask.astype(np.float32)], [mask]) == pytest.approx(1.0)


def test_a_map_that_says_nothing_gets_what_chance_gets():
    mask = two_regions()
    assert aupro([np.zeros(mask.shape, np.float32)], [mask], 1.0) == pytest.approx(0.5)


def test_a_missed_region_counts_by_number_not_by_area():
    mask = two_regions()
    only_small = np.where(mask == 1, 2.0, np.where(mask == 2, -1.0, np.linspace(0, 1, 100).reshape(10, 10)))
    assert aupro([only_small.astype(np.float32)], [mask]) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_equals_the_definition_with_ties_and_several_pictures(limit):
    random = np.random.default_rng(3)
    masks = [two_regions(), np.zeros((7, 9), np.uint8), two_regions()[::-1].copy()]
    maps = [np.round(random.random(mask.shape) + 0.3 * (mask > 0), 1).astype(np.float32) for mask in masks]
    assert aupro(maps, masks, limit) == pytest.approx(slow_aupro(maps, masks, limit))


def test_without_a_region_there_is_no_number():
    assert math.isnan(aupro([np.zeros((4, 4), np.float32)], [np.zeros((4, 4), np.uint8)]))
    assert math.isnan(aupro([np.zeros((4, 4), np.float32)], [np.ones((4, 4), np.uint8)]))


def test_shapes_must_agree():
    with pytest.raises(BugError):
        aupro([np.zeros((4, 4), np.float32)], [np.zeros((5, 4), np.uint8)])


def test_diagonal_neighbours_are_one_region():
    assert regions(np.eye(4, dtype=np.uint8))[0] == 1

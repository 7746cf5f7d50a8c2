"""Overlap by region and by label: hand-made maps whose numbers follow from counting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_sft.errors import BugError
from edge_sft.metrics.segmentation import aupro, defects, extent, label_overlap, regions


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


def one_hot(said, labels, cells=2):
    """Sure answers for masks, a quarter of their places each."""
    small = said[::cells, ::cells]
    return np.stack([(small == label).astype(np.float32) for label in range(labels)])


def blocks():
    mask = np.zeros((16, 24), np.uint8)
    mask[2:6, 2:10] = 1
    mask[10:14, 12:20] = 2
    return mask


def test_overlap_by_label_is_counted_over_all_pictures():
    mask = blocks()
    maps = np.stack([mask == label for label in range(4)]).astype(np.float32)[None]
    told = label_overlap(maps, [mask])
    assert told[:3] == pytest.approx([1, 1, 1])
    assert math.isnan(told[3])
    swapped = np.where(mask == 1, 2, mask)
    maps = np.stack([swapped == label for label in range(3)]).astype(np.float32)[None]
    assert label_overlap(maps, [mask]) == pytest.approx([1, 0, 0.5])


def test_a_coarse_map_is_judged_at_the_masks_size():
    told = label_overlap(one_hot(blocks(), 3)[None], [blocks()])
    assert (told > 0.6).all()


def test_defects_are_counted_one_by_one():
    mask, said = blocks(), np.zeros((16, 24), bool)
    said[2:6, 4:10] = True  # most of the first; the second is missed, and there is a part at nothing
    said[0, 20:23] = True
    told = defects([said], [mask])
    assert (told.count, told.found, told.parts, told.wrong) == (2, 1, 2, 1)
    assert told.areas.tolist() == [[32, 24]]
    assert told.lengths[0] == pytest.approx([8, 6], abs=1e-3)


def test_a_defect_that_is_hardly_touched_is_not_found():
    mask, said = blocks(), np.zeros((16, 24), bool)
    said[2, 2] = True
    assert defects([said], [mask]).found == 0


def test_the_extent_of_a_slanting_line_is_its_length():
    line = np.eye(10, dtype=bool)
    assert extent(line) == pytest.approx(10 * 2**0.5, abs=0.2)
    assert extent(np.ones((1, 1), bool)) == pytest.approx(1)

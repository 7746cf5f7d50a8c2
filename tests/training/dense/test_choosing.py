"""Thresholds from validation: by F1 of each label, by cost of the pictures' verdicts, by false rejects asked for."""

from __future__ import annotations

import numpy as np
import pytest

from edge_sft.errors import DataError
from edge_sft.metrics.detection import Boxes, Objects
from edge_sft.models.dense import task_of
from edge_sft.recipe import PolicySection
from edge_sft.training.dense.choosing import (
    conformal_limit,
    detection_policy,
    label_thresholds,
    limit_of,
    segmentation_policy,
)
from edge_sft.training.dense.evidence import Shown, of_maps

NONE = np.zeros((0, 4), np.float32)
BOX = np.array([[0, 0, 10, 10]], np.float32)
AWAY = np.array([[50, 50, 60, 60]], np.float32)


def told(box, score, label=0):
    return Boxes(box, np.array([score], np.float32), np.array([label]))


def one(label=0):
    return Objects(BOX, np.array([label]), NONE)


def nothing():
    return Objects(NONE, np.zeros(0, np.int64), NONE)


def shown(good):
    return Shown(np.array(good), np.ones(len(good)), np.arange(len(good)))


def test_a_labels_threshold_lies_between_right_and_wrong_boxes():
    found = [told(BOX, 0.8), told(BOX, 0.6), told(AWAY, 0.4), told(AWAY, 0.2)]
    assert label_thresholds(found, [one(), one(), nothing(), nothing()], 2) == pytest.approx([0.5, 0.3])


def test_pictures_decide_where_there_are_good_ones(recipe):
    task = task_of(recipe("detection"))
    found = [told(BOX, 0.5 + 0.04 * k) for k in range(10)] + [told(AWAY, 0.02 + 0.004 * k) for k in range(10)]
    true = [one()] * 10 + [nothing()] * 10
    policy = detection_policy(task, recipe("detection"), found, true, shown([False] * 10 + [True] * 10))
    assert 0.056 < policy.thresholds[0] < 0.5
    asked = recipe("detection", policy={"false_reject_rate": 0.1})
    policy = detection_policy(task, asked, found, true, shown([False] * 10 + [True] * 10))
    assert policy.thresholds[0] == pytest.approx(0.056, abs=1e-3)


def test_the_conformal_limit_keeps_its_promise():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(300):
        limit = conformal_limit(rng.random(19), 0.1)
        rates.append((rng.random(200) >= limit).mean())
    assert np.mean(rates) == pytest.approx(0.1, abs=0.01)


def test_a_rate_needs_its_number_of_good_pictures():
    assert conformal_limit(np.arange(99.0), 0.01) > 98
    with pytest.raises(DataError, match="98 good"):
        conformal_limit(np.arange(98.0), 0.01)


def test_without_good_pictures_or_defects_validation_tells_nothing():
    assert limit_of(np.array([0.5, 0.7]), shown([True, True]), PolicySection()) is None
    assert limit_of(np.array([0.5, 0.7]), shown([False, False]), PolicySection()) is None


def maps(*peaks):
    """One 8 x 8 map a peak, 2 x 3 cells of it."""
    found = np.full((len(peaks), 8, 8), 0.01, np.float32)
    for index, peak in enumerate(peaks):
        found[index, 2:4, 2:5] = peak
    return found


def test_evidence_is_the_peak_of_a_part_that_is_large_enough():
    assert of_maps(maps(0.9), 0.5, 6) == pytest.approx([0.9])
    assert of_maps(maps(0.9), 0.5, 7) == pytest.approx([0.01])
    assert of_maps(maps(0.3), 0.5, 1) == pytest.approx([0.3])


def test_segmentation_chooses_cells_by_overlap_and_parts_by_cost(recipe):
    given = recipe("segmentation")
    defect = np.concatenate([maps(*[0.9] * 8), maps(*[0.15] * 8)])
    marked = np.concatenate([maps(*[1.0] * 8) > 0.5, maps(*[0.0] * 8) > 0.5])
    policy = segmentation_policy(task_of(given), given, defect, marked, shown([False] * 8 + [True] * 8), 16.0)
    assert policy.labels == ("background", "disc", "bar")
    assert 0.15 < max(policy.threshold, policy.min_peak) < 0.9
    assert policy.min_area_px == 0

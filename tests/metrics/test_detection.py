"""Average precision against hand-counted cases, and what thresholds find and miss."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_sft.metrics.detection import Boxes, Objects, average_precision, finds, matched, overlap

NONE = np.zeros((0, 4), np.float32)


def true(*boxes, labels=None, ignored=NONE):
    given = np.array(boxes, np.float32).reshape(-1, 4)
    numbers = np.zeros(len(given), np.int64) if labels is None else np.array(labels, np.int64)
    return Objects(given, numbers, np.array(ignored, np.float32).reshape(-1, 4))


def found(*rows, pad=0):
    """Rows of left, top, right, bottom, score, label."""
    table = np.array([*rows, *[[0, 0, 0, 0, 0, 0]] * pad], np.float32).reshape(-1, 6)
    return Boxes(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def test_overlap_is_intersection_over_union():
    shared = overlap(np.array([[0, 0, 10, 10]], np.float32), np.array([[5, 0, 15, 10], [20, 20, 30, 30]], np.float32))
    assert shared[0] == pytest.approx([1 / 3, 0])


def test_boxes_that_lie_exactly_are_perfect():
    objects = [true([0, 0, 10, 10], [20, 20, 40, 30], labels=[0, 1]), true()]
    boxes = [found([0, 0, 10, 10, 0.9, 0], [20, 20, 40, 30, 0.4, 1], pad=3), found(pad=2)]
    result = average_precision(boxes, objects, 3)
    assert (result.ap50, result.ap) == pytest.approx((1.0, 1.0))
    assert result.by_label[0] == pytest.approx((1.0, 1.0))
    assert all(math.isnan(value) for value in result.by_label[2])


def test_a_box_that_lies_roughly_counts_at_low_overlaps_only():
    result = average_precision([found([0, 0, 10, 8, 0.9, 0])], [true([0, 0, 10, 10])], 1)
    assert result.ap50 == pytest.approx(1.0)
    assert result.ap == pytest.approx(0.7)  # at overlaps of 0.5 to 0.8, seven of ten


def test_a_false_box_above_the_right_one_costs_half():
    result = average_precision([found([50, 50, 60, 60, 0.9, 0], [0, 0, 10, 10, 0.5, 0])], [true([0, 0, 10, 10])], 1)
    assert result.ap50 == pytest.approx(0.5)


def test_more_than_a_hundred_boxes_are_all_judged():
    rows = [[50, 50, 60, 60, 0.9 - index / 1000, 0] for index in range(150)]
    result = average_precision([found(*rows, [0, 0, 10, 10, 0.1, 0])], [true([0, 0, 10, 10])], 1)
    assert result.ap50 > 0


def test_what_is_not_judged_is_neither_right_nor_wrong():
    objects = [true([0, 0, 10, 10], ignored=[[40, 40, 80, 80]])]
    boxes = [found([45, 45, 60, 60, 0.9, 0], [0, 0, 10, 10, 0.5, 0])]
    assert average_precision(boxes, objects, 1).ap50 == pytest.approx(1.0)
    counted = finds(boxes, objects, [0.1])
    assert (counted.objects[0], counted.hit[0], counted.boxes[0], counted.right[0]) == (1, 1, 1, 1)


def test_without_objects_there_is_no_number_and_without_boxes_it_is_nought():
    assert math.isnan(average_precision([found([0, 0, 5, 5, 0.5, 0])], [true()], 1).ap)
    assert average_precision([found(pad=3)], [true([0, 0, 5, 5])], 1).ap == 0.0


def test_each_object_is_taken_once_and_by_its_own_label():
    objects = true([0, 0, 10, 10], [0, 0, 10, 10], labels=[0, 1])
    boxes = found([0, 0, 10, 10, 0.9, 0], [1, 0, 10, 10, 0.8, 0], [0, 0, 10, 10, 0.7, 1])
    assert matched(boxes, objects).tolist() == [0, -1, 1]


def test_finds_obey_each_labels_threshold():
    objects = [true([0, 0, 10, 10], [20, 0, 30, 10], labels=[0, 1])]
    boxes = [found([0, 0, 10, 10, 0.4, 0], [20, 0, 30, 10, 0.4, 1], [50, 50, 60, 60, 0.4, 1])]
    counted = finds(boxes, objects, [0.5, 0.3])
    assert counted.hit.tolist() == [0, 1]
    assert counted.boxes.tolist() == [0, 2]

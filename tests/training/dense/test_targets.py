"""Targets and losses: a perfect answer costs least, and decoding it gives the boxes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_sft.models.dense.detector import DetectionHead
from edge_sft.training.dense.losses import detection_loss, label_weights, overlaps, segmentation_loss
from edge_sft.training.dense.samples import Drawn
from edge_sft.training.dense.targets import shares, wanted

NONE = np.zeros((0, 4), np.float32)


def drawn(*boxes, labels=None, ignored=NONE):
    given = np.array(boxes, np.float32).reshape(-1, 4)
    numbers = np.zeros(len(given), np.int64) if labels is None else np.array(labels, np.int64)
    return Drawn(given, numbers, np.array(ignored, np.float32).reshape(-1, 4))


def test_heat_is_one_at_the_centre_and_falls_around_it():
    target = wanted([drawn([8, 8, 56, 40], labels=[1])], 2, (8, 8), 8)
    assert target.heat[0, 1, 3, 4] == 1
    assert (target.heat == 1).sum() == 1
    assert 0 < target.heat[0, 1, 3, 5] < 1
    assert not target.heat[0, 0].any()
    assert target.share.sum() == pytest.approx(1)
    assert target.boxes[0, :, 3, 4].tolist() == [8, 8, 56, 40]


def test_a_small_object_keeps_its_place_on_a_large_one():
    target = wanted([drawn([24, 24, 40, 40], [0, 0, 64, 64])], 1, (8, 8), 8)
    assert target.boxes[0, :, 4, 4].tolist() == [24, 24, 40, 40]


def test_an_object_at_the_border_has_its_centre_inside():
    target = wanted([drawn([60, 60, 64, 64])], 1, (8, 8), 8)
    assert target.heat[0, 0, 7, 7] == 1


def test_what_is_ignored_is_not_judged():
    target = wanted([drawn(ignored=[[0, 0, 20, 20]])], 1, (8, 8), 8)
    assert not target.judged[0, 0, :3, :3].any()
    assert target.judged[0, 0, 3:, 3:].all()


def perfect(target, stride=8):
    """Raw answers that say exactly what is wanted."""
    heat = torch.from_numpy(np.where(target.heat == 1, 12.0, -12.0)).float()
    rows, columns = target.heat.shape[-2:]
    x = (torch.arange(columns) + 0.5).view(1, 1, -1) * stride
    y = (torch.arange(rows) + 0.5).view(1, -1, 1) * stride
    boxes = torch.from_numpy(target.boxes)
    away = torch.stack([x - boxes[:, 0], y - boxes[:, 1], boxes[:, 2] - x, boxes[:, 3] - y], dim=1) / stride
    return heat, away.clamp(min=1e-6).log(), torch.full((len(heat), 1, rows, columns), 12.0)


def loss_of(raw, target, head):
    tensors = (torch.from_numpy(part) for part in (target.heat, target.boxes, target.share, target.judged))
    return float(detection_loss(raw, head.boxes(raw[1]), *tensors).detach())


def test_a_perfect_answer_costs_nearly_nothing_and_decodes_to_the_truth():
    head = DetectionHead(8, 2, stride=8, size=(64, 64), most=5)
    target = wanted([drawn([8, 8, 56, 40], [2, 44, 14, 60], labels=[1, 0]), drawn()], 2, (8, 8), 8)
    raw = perfect(target)
    assert loss_of(raw, target, head) < 0.02
    boxes, scores, labels = head.answers(raw)
    assert (scores[0, :2] > 0.99).all()
    found = {int(label): box.tolist() for label, box in zip(labels[0, :2], boxes[0, :2], strict=True)}
    assert found[1] == pytest.approx([8, 8, 56, 40], abs=1e-2)
    assert found[0] == pytest.approx([2, 44, 14, 60], abs=1e-2)
    worse = (raw[0], raw[1] + 0.5, raw[2])
    assert loss_of(worse, target, head) > loss_of(raw, target, head) + 0.5
    assert loss_of((-raw[0], raw[1], raw[2]), target, head) > 5


def test_a_batch_without_objects_has_a_finite_loss():
    head = DetectionHead(8, 1, stride=8, size=(64, 64), most=5)
    target = wanted([drawn(), drawn()], 1, (8, 8), 8)
    raw = torch.zeros(2, 1, 8, 8, requires_grad=True), torch.zeros(2, 4, 8, 8), torch.zeros(2, 1, 8, 8)
    assert np.isfinite(loss_of(raw, target, head))


def test_overlaps_of_equal_and_of_distant_boxes():
    a = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 10]])
    b = torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10]])
    plain, general = overlaps(a, b)
    assert plain.tolist() == pytest.approx([1, 0])
    assert general.tolist() == pytest.approx([1, -1 / 3])


def test_shares_count_pixels_of_each_cell():
    mask = np.zeros((8, 8), np.uint8)
    mask[0, 0] = 2
    found = shares([Drawn(NONE, np.zeros(0, np.int64), NONE, mask)], 3, (2, 2))
    assert found[0, :, 0, 0] == pytest.approx([15 / 16, 0, 1 / 16])
    assert found[0, 0, 1, 1] == 1


def test_rare_labels_weigh_more_and_a_right_map_costs_least():
    weights = label_weights(torch.tensor([900.0, 100.0, 0.0]))
    assert weights.tolist() == pytest.approx([1, 3, 20])
    target = torch.zeros(1, 2, 4, 4)
    target[:, 0] = 1
    target[0, :, 1, 1] = torch.tensor([0.0, 1.0])
    right, wrong = 10 * (target - 0.5), -10 * (target - 0.5)
    heavy = torch.tensor([1.0, 3.0])
    assert segmentation_loss(right, target, heavy) < 0.1
    assert segmentation_loss(wrong, target, heavy) > 2
    empty = torch.zeros(1, 2, 4, 4)
    empty[:, 0] = 1
    assert torch.isfinite(segmentation_loss(right, empty, heavy))

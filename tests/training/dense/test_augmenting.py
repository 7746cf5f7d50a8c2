"""What is marked moves with the picture, to the pixel."""

from __future__ import annotations

import numpy as np
import pytest

from edge_sft.recipe import AugmentSection
from edge_sft.training.dense.augmenting import augmented
from edge_sft.training.dense.samples import Drawn

NONE = np.zeros((0, 4), np.float32)
PLAIN = AugmentSection(flip_horizontal=False, shift=0, brightness=0, contrast=0)


def square(left=20, top=10, right=40, bottom=22, *, mask=False, size=(48, 64)):
    image = np.full((*size, 3), 100, np.uint8)
    image[top:bottom, left:right] = 250
    box = np.array([[left, top, right, bottom]], np.float32)
    if not mask:
        return image, Drawn(box, np.zeros(1, np.int64), NONE)
    return image, Drawn(NONE, np.zeros(0, np.int64), NONE, (image[:, :, 0] > 200).astype(np.uint8))


def bright(image):
    rows, columns = np.nonzero(image[:, :, 0] > 175)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_nothing_allowed_is_nothing_done():
    image, drawn = square()
    told, same = augmented(image, drawn, PLAIN, np.random.default_rng(0))
    assert (told == image).all()
    assert same is drawn


@pytest.mark.parametrize("seed", range(12))
def test_boxes_follow_flips_and_shifts_exactly(seed):
    how = PLAIN.model_copy(update={"flip_horizontal": True, "flip_vertical": True, "shift": 0.1})
    told, drawn = augmented(*square(), how, np.random.default_rng(seed))
    assert drawn.boxes[0].tolist() == bright(told)


@pytest.mark.parametrize("seed", range(6))
def test_boxes_follow_scales_and_turns(seed):
    how = PLAIN.model_copy(update={"scale": 0.3, "rotate_deg": 15.0, "shift": 0.05})
    told, drawn = augmented(*square(), how, np.random.default_rng(seed))
    assert drawn.boxes[0] == pytest.approx(bright(told), abs=1.6)


@pytest.mark.parametrize("seed", range(6))
def test_masks_follow_the_picture(seed):
    how = AugmentSection(flip_vertical=True, scale=0.3, rotate_deg=90.0, shift=0.1, brightness=0, contrast=0)
    told, drawn = augmented(*square(mask=True), how, np.random.default_rng(seed))
    said = told[:, :, 0] > 175
    assert (said & (drawn.mask == 1)).sum() >= 0.85 * (said | (drawn.mask == 1)).sum()


def test_what_is_mostly_shifted_out_is_not_judged():
    image, drawn = square(60, 10, 64, 22)
    how = PLAIN.model_copy(update={"shift": 0.5})
    seen = [augmented(image, drawn, how, np.random.default_rng(seed))[1] for seed in range(40)]
    assert {(len(one.labels), len(one.ignored)) for one in seen} >= {(1, 0), (0, 0)}
    assert all(len(one.labels) + len(one.ignored) <= 1 for one in seen)


def test_the_same_generator_gives_the_same_picture():
    how = AugmentSection(scale=0.2, noise=0.05)
    one, other = (augmented(*square(), how, np.random.default_rng([1, 2])) for _ in range(2))
    assert (one[0] == other[0]).all()
    assert (one[1].boxes == other[1].boxes).all()
    assert one[0].min() >= 0
    assert one[0].max() <= 255

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_sft.preprocess import Preprocess, Tiles
from edge_sft.preprocess.tiling import Placement, place
from edge_sft.slots.boxes import marks_of

LABELS = ("scratch", "dent")
SPEC = Preprocess(height=128, width=128, tiles=Tiles(overlap=32))
MOST = 6


def seen_by(placement: Placement, *objects: tuple[float, float, float, float, float, str]) -> dict[str, np.ndarray]:
    """What a detector says that sees of each object (box in the frame, score, label) what lies in its tile."""
    tiles = len(placement)
    out: dict[str, Any] = {
        "boxes": np.zeros((tiles, MOST, 4), np.float32),
        "scores": np.zeros((tiles, MOST), np.float32),
        "labels": np.zeros((tiles, MOST), np.int32),
    }
    for tile in range(tiles):
        row = 0
        for *box, score, label in objects:
            moved = placement.to_tile(np.array([box], np.float32), tile)[0]
            clipped = np.clip(moved, 0, 128)
            if (clipped[2:] - clipped[:2] > 1).all():
                out["boxes"][tile, row], out["scores"][tile, row] = clipped, score
                out["labels"][tile, row] = LABELS.index(label)
                row += 1
    return out


def marks(placement: Placement, outputs: dict[str, np.ndarray], mm: float | None = None) -> list[Any]:
    height, width = placement.frame
    return marks_of(outputs, placement, (0, 0, width, height), LABELS, mm)


def test_each_object_is_marked_once_wherever_it_lies() -> None:
    placement = place(400, 500, SPEC)
    assert len(placement) > 12
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, top = rng.uniform(0, 470), rng.uniform(0, 370)
        width, height = rng.uniform(4, 28, 2)  # no larger than the overlap
        found = marks(placement, seen_by(placement, (left, top, left + width, top + height, 0.9, "dent")))
        assert len(found) == 1, (left, top, width, height)
        box = found[0]
        want = (left, top, min(left + width, 500), min(top + height, 400))
        assert (box.left, box.top, box.right, box.bottom) == pytest.approx(want, abs=0.02)


def test_the_whole_one_wins_over_a_part_with_a_higher_score() -> None:
    placement = place(128, 200, SPEC)
    edge = 128  # the first tile's right border; the second tile begins before
    outputs = seen_by(placement, (edge - 20, 50, edge + 8, 70, 0.6, "dent"))
    outputs["scores"][0, 0] = 0.99  # sees a part
    found = marks(placement, outputs)
    assert [(one.right, one.score) for one in found] == [(edge + 8, pytest.approx(0.6))]


def test_a_part_that_nobody_sees_whole_stays() -> None:
    placement = place(128, 200, SPEC)
    outputs = seen_by(placement, (108, 50, 136, 70, 0.9, "dent"))
    outputs["scores"][1] = 0  # the other tile missed it
    assert len(marks(placement, outputs)) == 1


def test_neighbouring_objects_and_other_labels_are_no_doubles() -> None:
    placement = place(128, 200, SPEC)
    found = marks(
        placement,
        seen_by(
            placement,
            (100, 50, 112, 62, 0.9, "dent"),
            (113, 50, 125, 62, 0.8, "dent"),
            (100, 50, 112, 62, 0.7, "scratch"),
        ),
    )
    assert [(one.label, one.left, one.score) for one in found] == [
        ("dent", 100, pytest.approx(0.9)),
        ("dent", 113, pytest.approx(0.8)),
        ("scratch", 100, pytest.approx(0.7)),
    ]


def test_boxes_of_one_tile_are_never_compared() -> None:
    placement = place(128, 128, SPEC.model_copy(update={"tiles": None}))
    twice = seen_by(placement, (10, 10, 50, 50, 0.9, "dent"), (12, 12, 48, 48, 0.8, "dent"))
    assert len(marks(placement, twice)) == 2


def test_boxes_are_moved_clipped_and_measured() -> None:
    spec = Preprocess(height=64, width=64, fit="stretch")
    placement = place(128, 256, spec)
    outputs = {
        "boxes": np.array([[[-4.0, 10, 16, 20], [0, 0, 9, 9]]], np.float32),
        "scores": np.array([[0.5, 0.0]], np.float32),
        "labels": np.array([[1, 0]], np.int32),
    }
    found = marks(placement, outputs, mm=0.5)
    assert len(found) == 1  # score 0 pads
    one = found[0]
    assert (one.left, one.top, one.right, one.bottom) == (0, 20, 64, 40)
    assert (one.label, one.area_px) == ("dent", None)
    assert (one.area_mm2, one.length_mm) == (64 * 20 * 0.25, 32)


def test_what_is_mirrored_beyond_the_picture_is_no_object() -> None:
    placement = place(100, 100, SPEC)
    outputs = {
        "boxes": np.array([[[104.0, 50, 116, 62], [90, 50, 102, 62]]], np.float32),
        "scores": np.array([[0.9, 0.8]], np.float32),
        "labels": np.zeros((1, 2), np.int32),
    }
    assert [(one.left, one.right) for one in marks(placement, outputs)] == [(90, 100)]


def test_thousands_of_boxes_are_bounded() -> None:
    import time

    placement = place(3000, 4096, Preprocess(height=512, width=512, tiles=Tiles(overlap=64)))
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 500, (len(placement), 300, 2))
    outputs = {
        "boxes": np.concatenate([low, low + 8], axis=2).astype(np.float32),
        "scores": rng.uniform(0, 1, (len(placement), 300)).astype(np.float32),
        "labels": np.zeros((len(placement), 300), np.int32),
    }
    began = time.monotonic()
    found = marks(placement, outputs)
    assert time.monotonic() - began < 2
    assert 100 < len(found) <= 1000

from __future__ import annotations

import numpy as np
import pytest

from edge_sft.prediction import MOST_MARKS
from edge_sft.preprocess.tiling import View
from edge_sft.slots.regions import Least, Ruler, outlines, parts, regions

CELL = 4  # pixels of the frame


def ruler(cells: tuple[int, int], mm: float | None = None, cell: float = CELL) -> Ruler:
    view = View((1 / cell, 1 / cell), (0.0, 0.0))
    return Ruler(view, (0, 0, int(cells[1] * cell), int(cells[0] * cell)), mm)


def heat(height: int, width: int, *boxes: tuple[int, int, int, int, float]) -> np.ndarray:
    values = np.zeros((height, width), np.float32)
    for top, left, bottom, right, value in boxes:
        values[top:bottom, left:right] = value
    return values


def test_a_region_is_where_and_as_large_as_it_is() -> None:
    found, count = regions(heat(40, 60, (10, 20, 18, 32, 3.0)), 1.5, ruler((40, 60), 0.1))
    assert count == 1
    one = found[0]
    assert (one.left, one.top, one.right, one.bottom) == pytest.approx((80, 40, 128, 72), abs=CELL / 2)
    assert one.score == 2.0
    assert one.label is None
    assert one.area_px == pytest.approx(48 * 32, rel=0.1)
    assert one.area_mm2 == pytest.approx(one.area_px * 0.01, rel=1e-3)
    assert one.length_mm == pytest.approx(4.8, abs=0.2)


def test_without_a_scale_there_are_no_millimetres() -> None:
    one = regions(heat(8, 8, (2, 2, 4, 4, 1)), 0.5, ruler((8, 8)))[0][0]
    assert (one.area_mm2, one.length_mm) == (None, None)


def test_a_slanted_scratch_is_as_long_as_it_is() -> None:
    values = np.zeros((100, 100), np.float32)
    for step in range(60):
        values[20 + step, 15 + step] = 1
    one = regions(values, 0.5, ruler((100, 100), 1.0, cell=1))[0][0]
    assert one.length_mm == pytest.approx(60 * 2**0.5, rel=0.05)
    assert one.area_px is not None
    assert one.area_px < 200


def test_a_single_cell_over_the_threshold_is_a_region_with_its_own_peak() -> None:
    found, count = regions(heat(16, 16, (5, 6, 6, 7, 1.0)), 1.0, ruler((16, 16)))
    assert count == 1
    assert found[0].score == 1.0
    middle = ((found[0].left + found[0].right) / 2, (found[0].top + found[0].bottom) / 2)
    assert middle == pytest.approx((6.5 * CELL, 5.5 * CELL))


def test_neighbours_at_a_corner_belong_together() -> None:
    assert regions(heat(8, 8, (2, 2, 3, 3, 1), (3, 3, 4, 4, 1)), 0.5, ruler((8, 8), cell=1))[1] == 1


def test_the_highest_are_kept_and_all_are_counted() -> None:
    rng = np.random.default_rng(0)
    values = np.zeros((80, 80), np.float32)
    values[::4, ::4] = rng.uniform(1, 2, (20, 20))
    found, count = regions(values, 1.0, ruler((80, 80)))
    assert (len(found), count) == (MOST_MARKS, 400)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] >= float(np.sort(values.ravel())[-MOST_MARKS]) - 1e-4


def test_small_and_short_regions_are_left_out_and_not_counted() -> None:
    values = heat(40, 40, (2, 2, 4, 4, 1), (10, 2, 11, 30, 1), (20, 20, 30, 30, 1))
    scale = ruler((40, 40), 0.5, cell=1)
    assert regions(values, 0.5, scale)[1] == 3
    assert regions(values, 0.5, scale, least=Least(area_px=5))[1] == 2
    assert regions(values, 0.5, scale, least=Least(area_mm2=10))[1] == 1
    longest, count = regions(values, 0.5, scale, least=Least(length_mm=8))
    assert (count, longest[0].length_mm) == (1, 14)


def test_what_lies_outside_of_what_the_model_sees_is_no_place() -> None:
    values = np.ones((10, 20), np.float32)
    view = View((0.25, 0.25), (0.0, 0.0))
    found, _ = regions(values, 0.5, Ruler(view, (8, 4, 60, 36)))
    assert (found[0].left, found[0].top, found[0].right, found[0].bottom) == (8, 4, 60, 36)
    assert regions(values, 0.5, Ruler(view, (100, 4, 160, 36)))[0] == []


def test_a_map_stretched_unevenly_is_measured_in_the_frame() -> None:
    view = View((0.25, 0.5), (1.0, -2.0))
    found, _ = regions(heat(20, 20, (4, 8, 6, 12, 1)), 0.5, Ruler(view, (0, 0, 200, 200), 1.0))
    one = found[0]
    assert (one.left, one.top) == pytest.approx((28, 12), abs=3)
    assert (one.right, one.bottom) == pytest.approx((44, 16), abs=3)


def test_no_map_is_too_large_or_too_small() -> None:
    for cells in ((1, 1), (3, 5000), (1500, 1500)):
        assert regions(np.zeros(cells, np.float32), 0.5, ruler(cells)) == ([], 0)
        assert regions(np.ones(cells, np.float32), 0.5, ruler(cells))[1] == 1


LABELS = ("background", "crack", "rust", "stamp")
OK = ("background", "stamp")


def probabilities(height: int, width: int, *boxes: tuple[int, int, int, int, str, float]) -> np.ndarray:
    values = np.zeros((4, height, width), np.float32)
    values[0] = 1
    for top, left, bottom, right, label, share in boxes:
        values[LABELS.index(label), top:bottom, left:right] = share
        values[0, top:bottom, left:right] -= share
    return values


def test_parts_of_each_label_are_told_apart() -> None:
    values = probabilities(
        30, 30, (2, 2, 8, 8, "crack", 0.9), (8, 2, 14, 8, "rust", 0.8), (20, 20, 25, 25, "stamp", 1.0)
    )
    found, count = parts(values, LABELS, OK, 0.5, ruler((30, 30)))
    assert [one.label for one in found] == ["crack", "rust"]
    assert [one.score for one in found] == pytest.approx([0.9, 0.8], abs=0.05)  # smoothed where they touch
    assert count == 2


def test_defects_that_add_up_are_a_defect_of_the_likelier_label() -> None:
    values = probabilities(20, 20, (5, 5, 10, 10, "crack", 0.3), (5, 5, 10, 10, "rust", 0.4))
    found, _ = parts(values, LABELS, OK, 0.6, ruler((20, 20)))
    assert [(one.label, one.score) for one in found] == [("rust", 0.7)]
    assert parts(values, LABELS, OK, 0.8, ruler((20, 20))) == ([], 0)


def test_outlines_go_around_what_is_marked() -> None:
    values = heat(20, 20, (5, 5, 10, 10, 2.0))
    scale = ruler((20, 20))
    lines = outlines(values, 1.0, scale.view, scale.region)
    assert len(lines) == 1
    assert lines[0].min(axis=0) == pytest.approx((5 * CELL, 5 * CELL), abs=CELL)
    assert lines[0].max(axis=0) == pytest.approx((10 * CELL, 10 * CELL), abs=CELL)

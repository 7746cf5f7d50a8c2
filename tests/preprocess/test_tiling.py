from __future__ import annotations

import numpy as np
import pytest

from edge_sft.preprocess import Preprocess, Tiles, image_tensor
from edge_sft.preprocess.images import TILE_STEP
from edge_sft.preprocess.tiling import AT_ONCE, View, cut, place, tile_mask

SPEC = Preprocess(height=128, width=96, tiles=Tiles(overlap=32))
SIZES = [(400, 500), (128, 96), (129, 97), (50, 60), (1000, 97), (3000, 4096)]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0, 32, 48])
def test_tiles_cover_everything_begin_at_steps_and_overlap_enough(size: tuple[int, int], overlap: int) -> None:
    spec = SPEC.model_copy(update={"tiles": Tiles(overlap=overlap)})
    placement = place(*size, spec)
    for axis, length in ((0, spec.height), (1, spec.width)):
        starts = sorted({corner[axis] for corner in placement.corners})
        assert starts[0] == 0
        assert all(start % TILE_STEP == 0 for start in starts)
        assert placement.canvas[axis] == starts[-1] + length
        assert size[axis] <= placement.canvas[axis] < max(size[axis], length) + TILE_STEP
        gaps = np.diff(starts)
        assert (gaps <= max(TILE_STEP, length - overlap)).all()
        assert (gaps > 0).all()


def test_a_tile_holds_the_pixels_of_its_place() -> None:
    frame = noise(300, 400)
    placement, tiling = cut(frame, SPEC)
    tiles = np.concatenate(list(tiling.batches()))
    assert tiles.shape == (len(placement), 128, 96, 3)
    for tile, (top, left) in zip(tiles, placement.corners, strict=True):
        part = frame[top : top + 128, left : left + 96]
        np.testing.assert_array_equal(tile[: part.shape[0], : part.shape[1]], part)


def test_beyond_the_picture_is_its_mirror() -> None:
    frame = noise(100, 80)
    _, tiling = cut(frame, SPEC)
    tile = next(tiling.batches())[0]
    np.testing.assert_array_equal(tile[100:128, :80], frame[-2:-30:-1])


@pytest.mark.parametrize("height_width", [(1, 1), (2, 500), (30, 31)])
def test_a_picture_much_smaller_than_a_tile_is_one_tile(height_width: tuple[int, int]) -> None:
    _, tiling = cut(noise(*height_width), SPEC)
    assert next(batch.shape for batch in tiling.batches())[1:] == (128, 96, 3)


def test_batches_are_bounded_and_lazy() -> None:
    _, tiling = cut(noise(1000, 1000), SPEC)
    sizes = [len(batch) for batch in tiling.batches()]
    assert sum(sizes) == len(tiling.placement) > 2 * AT_ONCE
    assert set(sizes[:-1]) == {AT_ONCE}
    assert next(len(batch) for batch in tiling.batches(3)) == 3


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_without_tiles_it_is_what_classification_sees(fit: str) -> None:
    spec = Preprocess(height=64, width=48, fit=fit, roi=(0.1, 0.2, 0.9, 0.8))  # type: ignore[arg-type]
    frame = noise(200, 300)
    placement, tiling = cut(frame, spec)
    batches = list(tiling.batches())
    assert [batch.shape for batch in batches] == [(1, 64, 48, 3)]
    np.testing.assert_array_equal(batches[0][0], image_tensor(frame, spec))
    assert len(placement) == 1


def test_grey_and_sixteen_bits_are_cut_too() -> None:
    for frame in (noise(200, 300)[:, :, 0], noise(200, 300)[:, :, 0].astype(np.uint16) * 257):
        batches = list(cut(frame, SPEC)[1].batches())
        assert batches[0].dtype == np.uint8
        assert batches[0].shape[1:] == (128, 96, 3)


# --- there and back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        SPEC.model_copy(update={"roi": (0.1, 0.25, 0.9, 0.95)}),
        SPEC.model_copy(update={"tiles": Tiles(overlap=32, scale=0.5)}),
        Preprocess(height=64, width=48, fit="stretch"),
        Preprocess(height=64, width=48, fit="pad", roi=(0.0, 0.3, 0.5, 0.9)),
        Preprocess(height=64, width=48, fit="crop"),
    ],
)
def test_boxes_go_there_and_back(spec: Preprocess) -> None:
    placement = place(300, 400, spec)
    boxes = np.array([[100, 120, 180, 160], [150, 130, 151, 200]], np.float32)
    for index in range(len(placement)):
        back = placement.to_frame(placement.to_tile(boxes, index), index)
        np.testing.assert_allclose(back, boxes, atol=1e-2)


@pytest.mark.parametrize("spec", [SPEC, Preprocess(height=64, width=96, fit="pad"), Preprocess(height=64, width=48)])
def test_a_mark_lies_where_its_box_says(spec: Preprocess) -> None:
    frame = np.zeros((300, 400, 3), np.uint8)
    box = np.array([[140, 96, 180, 136]], np.float32)
    frame[96:136, 140:180] = 255
    placement, tiling = cut(frame, spec)
    for index, tile in enumerate(np.concatenate(list(tiling.batches()))):
        left, top, right, bottom = np.clip(placement.to_tile(box, index)[0], 0, (spec.width, spec.height) * 2)
        rows, columns = np.nonzero(tile[:, :, 0] > 127)
        if not rows.size:
            assert (right - left) * (bottom - top) < 2
            continue
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert found == pytest.approx((left, top, right, bottom), abs=1.0)


def test_a_mask_is_cut_like_its_picture() -> None:
    frame = (noise(300, 400) > 200).astype(np.uint8) * 255
    mask = (frame[:, :, 0] > 0).astype(np.uint8)
    placement, tiling = cut(frame, SPEC)
    for index, tile in enumerate(np.concatenate(list(tiling.batches()))):
        moved = tile_mask(mask, placement, index, outside=9)
        inside = moved != 9
        np.testing.assert_array_equal(moved[inside], (tile[:, :, 0] > 0).astype(np.uint8)[inside])
        top, left = placement.corners[index]
        assert inside.sum() == min(128, 300 - top) * min(96, 400 - left)


# --- maps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES[:-1])
@pytest.mark.parametrize("cell", [1, 4, 32])
def test_what_tiles_agree_on_is_merged_exactly(size: tuple[int, int], cell: int) -> None:
    placement = place(*size, SPEC)
    rows, columns = placement.canvas[0] // cell, placement.canvas[1] // cell
    whole = np.random.default_rng(0).normal(size=(2, rows, columns)).astype(np.float32)
    tiles = np.stack(
        [
            whole[:, top // cell : (top + 128) // cell, left // cell : (left + 96) // cell]
            for top, left in placement.corners
        ]
    )
    np.testing.assert_allclose(placement.merge(tiles), whole, atol=1e-5)
    np.testing.assert_allclose(placement.merge(tiles[:, 0]), whole[0], atol=1e-5)


def test_where_tiles_differ_the_map_changes_over_the_whole_overlap() -> None:
    placement = place(128, 160, SPEC)
    assert len(placement) == 2
    shared = 96 - placement.corners[1][1]
    maps = np.stack([np.zeros((32, 24), np.float32), np.ones((32, 24), np.float32)])
    merged = placement.merge(maps)
    steps = np.abs(np.diff(merged, axis=1)).max()
    assert merged[:, 0].max() == 0
    assert merged[:, -1].min() == 1
    assert steps <= 4 / (shared / 2) * 1.5  # cells of 4 pixels, over the middle half


@pytest.mark.parametrize("size", [(300, 400), (300, 50)])
def test_a_place_of_the_merged_map_is_where_it_was_in_the_frame(size: tuple[int, int]) -> None:
    spec = SPEC.model_copy(update={"roi": (0.0, 0.1, 1.0, 1.0), "tiles": Tiles(overlap=32, scale=0.5)})
    placement = place(*size, spec)
    rows, columns = placement.canvas[0] // 4, placement.canvas[1] // 4
    view = placement.map_view((rows, columns))
    assert view.scale == pytest.approx((0.125, 0.125), rel=0.02)
    assert view.shift == pytest.approx((0, -0.1 * size[0] / 8), abs=0.2)


def test_one_tile_s_map_stays_as_it_is() -> None:
    placement = place(300, 400, Preprocess(height=64, width=64))
    values = np.random.default_rng(0).normal(size=(1, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(placement.merge(values), values[0])
    assert placement.map_view((8, 8)) == View((8 / 400, 8 / 300), (0, 0))

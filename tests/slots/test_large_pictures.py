"""Pictures larger than a tile: no seams, the right place, bounded memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_sft import Predictor
from edge_sft.bundle.reading import open_verified
from edge_sft.preprocess import Preprocess, Tiles
from edge_sft.preprocess.tiling import Placement, cut, place
from edge_sft.slots.memory import resident_mb

SPEC = Preprocess(height=256, width=256, tiles=Tiles(overlap=64))
HEIGHT, WIDTH = 3000, 4096


@pytest.fixture
def opened(tmp_path: Path, small: ModuleType, dense: ModuleType) -> Callable[..., Predictor]:
    signer = small.Signer.make(tmp_path / "keys")

    def make(kind: str, **changes: Any) -> Predictor:
        folder = tmp_path / kind
        bundle = dense.DensePlan(kind, **changes).write(tmp_path / "out", signer.private)
        open_verified(bundle, [signer.public]).extract_to(folder)
        return Predictor.open(folder, threads=1)

    return make


def surface(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A rough surface under uneven light."""
    import cv2

    rng = np.random.default_rng(seed)
    light = cv2.resize(rng.uniform(90, 140, (5, 6)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = cv2.GaussianBlur(rng.normal(0, 12, (height, width)).astype(np.float32), (0, 0), 1.5)
    return np.repeat(np.clip(light + grain, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def test_a_graph_that_is_the_same_everywhere_gives_the_map_of_the_uncut_picture(
    dense: ModuleType, opened: Callable[..., Predictor]
) -> None:
    frame = surface(832, 1088)
    with opened("anomaly", size=256, preprocess=SPEC) as predictor:
        heat = predictor.explain(frame).heat
    assert heat is not None
    light = frame[:, :, 0].astype(np.float64) / 255
    cells = light.reshape(832 // 4, 4, 1088 // 4, 4).mean(axis=(1, 3))
    want = np.abs(cells[:, :, None] - dense.BANK.ravel()).min(axis=2) / 0.2
    np.testing.assert_allclose(heat.values[: want.shape[0], : want.shape[1]], want, atol=1e-5)


def borders(placement: Placement, axis: int, stride: int) -> list[int]:
    """Return after which cells of the merged map a tile begins or ends."""
    length, whole = placement.tile[axis], placement.canvas[axis]
    starts = {corner[axis] for corner in placement.corners}
    return sorted(
        {start // stride - 1 for start in starts if start}
        | {(start + length) // stride - 1 for start in starts if start + length < whole}
    )


def test_a_real_network_s_map_jumps_no_more_at_borders_of_tiles_than_elsewhere() -> None:
    """Lite0's features up to stride 8, as they are with random weights: padding at borders tells there as anywhere."""
    torch = pytest.importorskip("torch", reason="torch is not installed: seams of a real network were not measured")
    from edge_sft.models.efficientnet_lite import build

    torch.manual_seed(0)
    stages = build("efficientnet_lite0").stages[:4].eval()

    def features(batch: np.ndarray) -> np.ndarray:
        maps = (torch.from_numpy(batch).float().permute(0, 3, 1, 2) - 127) / 128
        with torch.no_grad():
            for stage in stages:
                maps = stage(maps)
        return np.asarray(maps)

    frame = surface(640, 832)
    placement, tiling = cut(frame, SPEC)
    uncut = features(frame[None])[0]
    centre, deviation = uncut.mean(axis=(1, 2), keepdims=True), uncut.std(axis=(1, 2), keepdims=True) + 1e-9

    def distance(maps: np.ndarray) -> np.ndarray:
        return np.sqrt((((maps - centre) / deviation) ** 2).mean(axis=-3)).astype(np.float32)

    want = distance(uncut)
    got = placement.merge(distance(np.concatenate([features(batch) for batch in tiling.batches()])))
    got = got[: want.shape[0], : want.shape[1]]
    stride = 640 // want.shape[0]
    for axis in (0, 1):
        jumps = np.abs(np.diff(got, axis=axis)).mean(axis=1 - axis)
        at = [place for place in borders(placement, axis, stride) if place < len(jumps)]
        assert len(at) >= 4
        assert jumps[at].mean() <= 1.1 * np.delete(jumps, at).mean()
        assert jumps[at].max() <= 1.1 * np.delete(jumps, at).max()
    assert np.abs(got - want).mean() < 0.02 * want.std()


@pytest.mark.parametrize("kind", ["anomaly", "detection", "segmentation"])
def test_a_defect_of_twelve_pixels_in_twelve_million_is_found(
    kind: str, dense: ModuleType, opened: Callable[..., Predictor]
) -> None:
    spec = Preprocess(height=512, width=512, tiles=Tiles(overlap=64), mm_per_pixel=0.05)
    frame = dense.frame(HEIGHT, WIDTH)
    with opened(kind, size=512, preprocess=spec) as predictor:
        assert predictor.predict_image(frame).verdict == "ok"
        # in the middle of a tile, across a border of tiles, at the picture's edges
        top = place(HEIGHT, WIDTH, spec).corners[20][0]
        for row, column in ((1500, 2000), (top - 6, 777), (0, WIDTH - 12), (HEIGHT - 12, 0)):
            frame[row : row + 12, column : column + 12] = 255
            got = predictor.predict_image(frame)
            frame[row : row + 12, column : column + 12] = dense.GREY
            assert (got.verdict, len(got.marks or ())) == ("nok", 1), (row, column, got.score)
            mark = (got.marks or ())[0]
            middle = ((mark.left + mark.right) / 2, (mark.top + mark.bottom) / 2)
            assert middle == pytest.approx((column + 6, row + 6), abs=4)
            assert mark.length_mm == pytest.approx(0.6, abs=0.25)


def test_memory_grows_by_a_few_tiles_not_by_all(dense: ModuleType, opened: Callable[..., Predictor]) -> None:
    if resident_mb() is None:
        pytest.skip("this system does not tell its memory")
    spec = Preprocess(height=512, width=512, tiles=Tiles(overlap=256))  # 160 tiles, 126 MB if all were there at once
    frame = dense.frame(HEIGHT, WIDTH, (1000, 1000, 12))
    with opened("segmentation", size=512, preprocess=spec) as predictor:
        quick = predictor._engine.infer

        def idle(inputs: Any) -> Any:  # the arena of ONNX Runtime is its own matter
            count = len(inputs["image"])
            told = np.zeros((count, 3, 128, 128), np.float32)
            told[:, 0] = 1
            return {"probabilities": told}

        predictor.predict_image(dense.frame(600, 600))
        predictor._engine.infer = idle  # type: ignore[method-assign]
        before, highest, stop = resident_mb() or 0.0, [0.0], threading.Event()

        def watch() -> None:
            while not stop.wait(0.002):
                highest[0] = max(highest[0], resident_mb() or 0.0)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert predictor.predict_image(frame).verdict == "ok"
        finally:
            stop.set()
            watcher.join()
        predictor._engine.infer = quick  # type: ignore[method-assign]
    # 160 maps of 3 labels are 31 MB, joined and merged some 80; 8 tiles 6 MB; enlarged maps a few
    assert highest[0] - before < 220


def test_it_takes_little_time_beside_the_network(dense: ModuleType, opened: Callable[..., Predictor]) -> None:
    spec = Preprocess(height=512, width=512, tiles=Tiles(overlap=64))
    frame = surface(HEIGHT, WIDTH)
    frame[1500:1512, 2000:2012] = 255
    with opened("anomaly", size=512, preprocess=spec) as predictor:
        predictor.predict_image(frame)
        began = time.monotonic()
        assert predictor.predict_image(frame).verdict == "nok"
        assert time.monotonic() - began < 5  # 63 tiles

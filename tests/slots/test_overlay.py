from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from edge_sft import Predictor
from edge_sft.bundle.reading import open_verified
from edge_sft.prediction import Mark, Prediction
from edge_sft.preprocess import Preprocess, Tiles
from edge_sft.preprocess.tiling import View
from edge_sft.slots import overlay
from edge_sft.slots.marking import Heat
from edge_sft.slots.predictor import Explained


def told(**changes: Any) -> Prediction:
    fields: dict[str, Any] = {"stream": "s", "captured_at": "t", "decided_at": "t", "latency_ms": 1, "verdict": "nok"}
    return Prediction(**{**fields, **changes})


def explained(height: int, width: int, values: np.ndarray | None = None, **changes: Any) -> Explained:
    frame = np.full((height, width, 3), 100, np.uint8)
    heat = None
    if values is not None:
        view = View((values.shape[1] / width, values.shape[0] / height), (0.0, 0.0))
        heat = Heat(values.astype(np.float32), view, (0, 0, width, height))
    return Explained(frame, (height, width), told(**changes), heat)


def middle_of(picture: np.ndarray, share_y: float, share_x: float) -> tuple[int, ...]:
    return tuple(int(v) for v in picture[int(share_y * picture.shape[0]), int(share_x * picture.shape[1])])


def test_colours_mean_the_same_in_every_picture() -> None:
    """Yellow at the threshold, red from twice it on, nothing below half: whatever else is in the picture."""
    values = np.zeros((8, 8))
    values[:, 4:] = 1.0
    alone = overlay.draw(explained(600, 600, values))
    values[:4, 4:] = 50.0
    beside = overlay.draw(explained(600, 600, values))
    assert middle_of(alone, 0.8, 0.8) == middle_of(beside, 0.8, 0.8)
    assert middle_of(alone, 0.8, 0.2) == (100, 100, 100)
    red, green, blue = middle_of(beside, 0.25, 0.75)
    assert red > 140
    assert max(green, blue) < 80
    red, green, blue = middle_of(alone, 0.8, 0.8)
    assert min(red, green) > 130
    assert blue < 100


def test_half_of_the_threshold_shows_nothing() -> None:
    picture = overlay.draw(explained(600, 600, np.full((6, 6), 0.49), verdict="ok"))
    assert (picture[100:] == 100).all()


def test_the_map_lies_on_its_place_to_a_pixel() -> None:
    values = np.zeros((30, 30))
    values[10:20, 5:10] = 4.0
    picture = overlay.draw(explained(600, 600, values)).astype(int)
    red = picture[:, :, 0] - picture[:, :, 2] > 60
    rows, columns = np.nonzero(red[60:])
    assert rows.min() + 60 == pytest.approx(200, abs=12)
    assert rows.max() + 60 == pytest.approx(400, abs=12)
    assert columns.min() == pytest.approx(100, abs=12)
    assert columns.max() == pytest.approx(200, abs=12)


def test_only_what_the_model_sees_is_coloured() -> None:
    one = explained(600, 600, np.full((6, 6), 2.0))
    assert one.heat is not None
    heat = Heat(one.heat.values, one.heat.view, (300, 200, 600, 600))
    picture = overlay.draw(Explained(one.frame, one.size, one.prediction, heat))
    assert (picture[250:550, 50:290] == 100).all()
    assert (picture[250:550, 320:580] != 100).any(axis=2).all()


def test_boxes_and_their_names() -> None:
    mark = Mark(label="Öse", score=0.9, left=200, top=200, right=400, bottom=300, length_mm=4.2)
    picture = overlay.draw(explained(600, 600, marks=(mark,)))
    plain = overlay.draw(explained(600, 600))
    changed = (picture != plain).any(axis=2)
    assert changed[200, 210:390].all()
    assert changed[210:290, 400].all()
    assert not changed[220:280, 220:380].any()
    assert changed[170:198, 200:260].any()  # the name, above


@pytest.mark.parametrize(("height", "width"), [(3000, 4096), (1, 1), (5, 4000), (64, 64), (2048, 2048)])
def test_a_picture_that_can_be_looked_at(height: int, width: int) -> None:
    mark = Mark(label="x", score=0.9, left=0, top=0, right=width, bottom=height)
    for values in (None, np.ones((4, 4))):
        picture = overlay.draw(explained(height, width, values, marks=(mark,)), mm_per_pixel=0.01)
        assert 512 <= max(picture.shape[:2]) <= overlay.LARGEST
        assert picture.dtype == np.uint8
        assert picture.shape[1] / picture.shape[0] == pytest.approx(width / height, rel=0.5)


def test_the_frame_is_left_as_it_was() -> None:
    one = explained(600, 600, np.ones((4, 4)))
    overlay.draw(one)
    assert (one.frame == 100).all()


@pytest.mark.parametrize(("mm", "bar"), [(0.01, 1.0), (0.05, 5.0), (3.0, 200.0), (1e-4, 0.01)])
def test_the_bar_has_a_round_length(mm: float, bar: float) -> None:
    assert overlay._round_length(mm * 600 / 5) == pytest.approx(bar)


def test_what_the_letters_cannot_write_is_spelt() -> None:
    assert overlay._spelt("Kratzer groß, Öl, Łódź, 傷") == "Kratzer gross, Oel, Lodz, ?"


def test_a_headline_says_what_the_number_is() -> None:
    assert overlay.headline(told(score=2.5)) == "NOK x2.50"
    assert overlay.headline(told(score=0.9, label="dent")) == "NOK dent 0.90"
    assert overlay.headline(told(verdict="no_decision")) == "NO DECISION"


def test_a_jpeg_fits_or_is_none() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    sizes = []
    for most in (2_000_000, 200_000, 20_000, 3_000):
        content = overlay.jpeg_within(noise, most)
        assert content is not None
        assert len(content) <= most
        sizes.append(cv2.imdecode(np.frombuffer(content, np.uint8), 1).shape[1])
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] > 300  # not smaller than it must be
    assert overlay.jpeg_within(noise, 100) is None
    assert overlay.jpeg_within(noise, -1) is None


@pytest.fixture
def opened(tmp_path: Path, small: ModuleType, dense: ModuleType) -> Callable[..., Predictor]:
    signer = small.Signer.make(tmp_path / "keys")

    def make(kind: str, **changes: Any) -> Predictor:
        folder = tmp_path / kind
        bundle = dense.DensePlan(kind, **changes).write(tmp_path / "out", signer.private)
        open_verified(bundle, [signer.public]).extract_to(folder)
        return Predictor.open(folder, threads=1)

    return make


@pytest.mark.parametrize("kind", ["anomaly", "detection", "segmentation"])
def test_a_large_picture_of_each_kind(kind: str, opened: Callable[..., Predictor], dense: ModuleType) -> None:
    spec = Preprocess(height=256, width=256, tiles=Tiles(overlap=32), mm_per_pixel=0.1)
    frame = dense.frame(1500, 4200, (700, 2100, 60), value=250)
    with opened(kind, size=256, preprocess=spec) as predictor:
        one = predictor.explain(frame)
        picture = overlay.draw(one, mm_per_pixel=predictor.mm_per_pixel)
        bare = overlay.draw(Explained(one.frame, one.size, one.prediction.model_copy(update={"marks": ()})))
    assert picture.shape == (731, 2048, 3)
    changed = (picture != bare).any(axis=2)
    scale = 2048 / 4200
    assert changed[int(700 * scale) : int(760 * scale), int(2100 * scale) : int(2160 * scale)].any()

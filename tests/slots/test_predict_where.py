"""Anomalies, boxes and parts through the Predictor: from a frame to a Prediction, one tile and many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from edge_sft import Predictor, Sample
from edge_sft.bundle.reading import open_verified
from edge_sft.errors import DataError, DeviceError
from edge_sft.prediction import MOST_MARKS, Encoded, Envelope, Prediction
from edge_sft.preprocess import Preprocess, Tiles
from edge_sft.slots import golden

KINDS = ("anomaly", "detection", "segmentation")
LARGE = Preprocess(height=64, width=64, tiles=Tiles(overlap=32))

Opened = Callable[..., Predictor]


@pytest.fixture
def folder_of(tmp_path: Path, small: ModuleType, dense: ModuleType) -> Callable[..., Path]:
    signer = small.Signer.make(tmp_path / "keys")

    def make(kind: str, **changes: Any) -> Path:
        plan = dense.DensePlan(kind).but(**changes)
        folder = tmp_path / f"slot-{len(list(tmp_path.iterdir()))}"
        open_verified(plan.write(tmp_path / "out", signer.private), [signer.public]).extract_to(folder)
        return folder

    return make


@pytest.fixture
def opened(folder_of: Callable[..., Path]) -> Iterator[Opened]:
    kept: list[Predictor] = []

    def make(kind: str, *, local: Any = None, deadline_ms: float | None = None, **changes: Any) -> Predictor:
        kept.append(Predictor.open(folder_of(kind, **changes), local=local, deadline_ms=deadline_ms, threads=1))
        return kept[-1]

    yield make
    for one in kept:
        one.close()


def sample(data: Any, *, age_s: float = 0.0) -> Sample:
    return Sample(data, datetime.now(timezone.utc), time.monotonic() - age_s, "cam", part_id="P-1", name="frame 7")


def middle(prediction: Prediction, index: int = 0) -> tuple[float, float]:
    assert prediction.marks
    mark = prediction.marks[index]
    return (mark.left + mark.right) / 2, (mark.top + mark.bottom) / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", [None, LARGE], ids=["one tile", "many"])
def test_a_defect_is_found_where_it_is(kind: str, spec: Any, opened: Opened, dense: ModuleType) -> None:
    height, width = (64, 64) if spec is None else (200, 310)
    predictor = opened(kind, preprocess=spec)
    good = predictor.predict(sample(dense.frame(height, width)))
    assert (good.verdict, good.marks, good.label) == ("ok", (), None)
    for top, left in ((24, 40), (44, 12)) if spec is None else ((24, 40), (60, 60), (180, 290), (100, 124)):
        bad = predictor.predict(sample(dense.frame(height, width, (top, left, 12))))
        assert bad.verdict == "nok"
        assert len(bad.marks or ()) == 1
        assert middle(bad) == pytest.approx((left + 6, top + 6), abs=dense.CELL)
        assert (bad.part_id, bad.name, bad.stream) == ("P-1", "frame 7", "cam")
        assert bad.marks_found is None
        Envelope.from_json(Envelope(stream="cam", epoch="0" * 16, seq=0, prediction=bad).to_json())


def test_what_each_kind_says(opened: Opened, dense: ModuleType) -> None:
    frame = dense.frame(64, 64, (24, 40, 12))
    anomaly = opened("anomaly").predict(sample(frame))
    assert anomaly.score == pytest.approx(0.5 / 0.2, rel=1e-3)  # brightness 1 is 0.5 from the bank, threshold 0.2
    assert (anomaly.label, anomaly.confidence, anomaly.probabilities) == (None, None, None)
    assert anomaly.marks is not None
    assert anomaly.marks[0].score == pytest.approx(2.5, rel=1e-3)
    detection = opened("detection").predict(sample(frame))
    assert (detection.label, detection.score, detection.confidence) == ("bright", 1.0, 1.0)
    segmentation = opened("segmentation").predict(sample(frame))
    assert segmentation.label == "bright"
    assert segmentation.score == pytest.approx(1.0, abs=1e-3)
    assert segmentation.marks is not None
    assert segmentation.marks[0].area_px == pytest.approx(144, rel=0.2)


def test_labels_are_told_apart(opened: Opened, dense: ModuleType) -> None:
    frame = dense.frame(64, 64, (8, 8, 12))
    frame[40:52, 40:52] = (255, 220, 120)
    detection = opened("detection").predict(sample(frame))
    assert [mark.label for mark in detection.marks or ()] == ["bright", "red"]
    frame[40:52, 40:52] = 0
    segmentation = opened("segmentation").predict(sample(frame))
    assert {mark.label for mark in segmentation.marks or ()} == {"bright", "dark"}


@pytest.mark.parametrize("kind", KINDS)
def test_nan_is_no_decision(kind: str, opened: Opened, dense: ModuleType) -> None:
    predictor = opened(kind, graphs={"fp32": dense.MAKERS[kind](64, nan=True)}, preprocess=LARGE)
    got = predictor.predict(sample(dense.frame(100, 100)))
    assert (got.verdict, got.reason, got.marks) == ("no_decision", "model output is not finite", None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_a_frame_and_its_bytes_agree(kind: str, opened: Opened, dense: ModuleType, tmp_path: Path) -> None:
    frame = dense.frame(200, 310, (100, 124, 12))
    content = cv2.imencode(".png", frame)[1].tobytes()
    path = tmp_path / "part.png"
    path.write_bytes(content)
    predictor = opened(kind, preprocess=LARGE)
    made = [
        predictor.predict_image(path),
        predictor.predict_image(frame),
        predictor.predict(sample(Encoded(content))),
        predictor.explain(path).prediction,
    ]
    for one in made[1:]:
        assert (one.verdict, one.score, one.marks) == (made[0].verdict, made[0].score, made[0].marks)


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_that_is_decoded_smaller_is_marked_in_its_own_pixels(
    kind: str, opened: Opened, dense: ModuleType
) -> None:
    frame = dense.frame(800, 800, (400, 600, 120))
    content = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    got = opened(kind).predict(sample(Encoded(content)))
    assert middle(got) == pytest.approx((660, 460), abs=40)
    shown = opened(kind)
    explained = shown.explain(frame)
    assert (explained.size, explained.frame.shape) == ((800, 800), (800, 800, 3))


def test_millimetres_and_small_marks(opened: Opened, dense: ModuleType) -> None:
    spec = LARGE.model_copy(update={"mm_per_pixel": 0.25})
    frame = dense.frame(200, 310, (100, 124, 12), (20, 20, 4))
    both = opened("segmentation", preprocess=spec).predict(sample(frame))
    assert len(both.marks or ()) == 2
    large = both.marks[0] if both.marks else None
    assert large is not None
    assert large.area_mm2 == pytest.approx(9, rel=0.3)
    assert large.length_mm == pytest.approx(3, rel=0.2)
    rule = dense.policy_of("segmentation", min_length_mm=2.0)
    one = opened("segmentation", preprocess=spec, policy=rule).predict(sample(frame))
    assert len(one.marks or ()) == 1
    rule = dense.policy_of("segmentation", min_area_mm2=20.0)
    none = opened("segmentation", preprocess=spec, policy=rule).predict(sample(frame))
    assert (none.verdict, none.marks) == ("ok", ())


def test_a_message_holds_a_hundred_marks_and_says_how_many_there_were(opened: Opened, dense: ModuleType) -> None:
    spots = [(top, left, 4) for top in range(0, 320, 16) for left in range(0, 320, 16)]
    got = opened("anomaly", preprocess=LARGE).predict(sample(dense.frame(320, 320, *spots)))
    assert (len(got.marks or ()), got.marks_found) == (MOST_MARKS, len(spots))


# --- what is this machine's own ------------------------------------------------------------------------------


def test_a_machine_s_own_bank_is_fed_and_the_bundle_s_is_the_default(
    opened: Opened, dense: ModuleType, folder_of: Callable[..., Path]
) -> None:
    dark = np.full((64, 64, 3), 20, np.uint8)
    assert opened("anomaly").predict(sample(dark)).verdict == "nok"
    bank = np.array([[20 / 255], [0.1]], np.float32)
    predictor = opened("anomaly", local={"bank": bank})
    bank[:] = 1  # the caller's array is not ours
    assert predictor.predict(sample(dark)).verdict == "ok"
    assert predictor.predict(sample(dense.frame(64, 64))).verdict == "nok"
    default = predictor.outputs({"image": dark[None]})  # golden samples are asked of the bundle's own
    assert default["score"][0] == pytest.approx(0.4 - 20 / 255, abs=1e-4)


def test_a_bank_of_another_shape_is_a_fault_at_the_start(folder_of: Callable[..., Path]) -> None:
    from edge_sft.errors import BugError

    with pytest.raises(BugError):
        Predictor.open(folder_of("anomaly"), local={"bank": np.zeros((7, 1), np.float32)})


def test_golden_samples_of_a_graph_with_a_default_hold_no_bank(folder_of: Callable[..., Path]) -> None:
    for kind in KINDS:
        folder = folder_of(kind)
        with Predictor.open(folder) as predictor:
            samples = golden.load(folder)
            answer = golden.compare(samples, "fp32", predictor.outputs, predictor.policy, together=True)
            assert (answer.wrong(1e-3), answer.samples) == ("", 5)

            def shifted(inputs: Any, predictor: Predictor = predictor) -> Any:
                told = predictor.outputs(inputs)
                return {
                    name: array * 0.1 if "score" in name or "prob" in name else array for name, array in told.items()
                }

            assert golden.compare(samples, "fp32", shifted, predictor.policy).decisions_changed


# --- deadlines and trouble -----------------------------------------------------------------------------------


def test_the_deadline_is_kept_between_batches(opened: Opened, dense: ModuleType) -> None:
    predictor = opened("detection", preprocess=LARGE, deadline_ms=250)
    frame = dense.frame(400, 400)
    asked: list[int] = []
    quick = predictor._engine.infer

    def slow(inputs: Any) -> Any:
        asked.append(len(inputs["image"]))
        time.sleep(0.15)
        return quick(inputs)

    predictor._engine.infer = slow  # type: ignore[method-assign]
    got = predictor.predict(sample(frame))
    assert got.verdict == "no_decision"
    assert str(got.reason).startswith("deadline missed")
    assert asked == [1, 1]  # of many more
    asked.clear()
    assert predictor.predict_image(dense.frame(64, 64)).verdict == "ok"  # nobody waits for a file


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_engine_and_a_bad_frame_are_no_decisions(kind: str, opened: Opened, dense: ModuleType) -> None:
    predictor = opened(kind, preprocess=LARGE)
    for bad in (None, np.zeros((0, 5, 3), np.uint8), np.zeros((5, 5, 2), np.uint8), Encoded(b"no picture")):
        assert predictor.predict(sample(bad)).verdict == "no_decision"
        with pytest.raises(DataError):
            predictor.prepare(sample(bad))

    def fails(_: Any) -> Any:
        raise DeviceError("fp32.onnx", "failed while inferring (out of memory)", "")

    predictor._engine.infer = fails  # type: ignore[method-assign]
    assert "out of memory" in str(predictor.predict(sample(dense.frame(100, 100))).reason)
    assert predictor.heat is None


# --- what can be shown ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["anomaly", "segmentation"])
@pytest.mark.parametrize("spec", [None, LARGE.model_copy(update={"roi": (0.1, 0.1, 1.0, 0.9)})])
def test_the_map_lies_over_the_frame(kind: str, spec: Any, opened: Opened, dense: ModuleType) -> None:
    frame = dense.frame(200, 310, (100, 124, 24))
    explained = opened(kind, preprocess=spec).explain(frame)
    assert explained.size == (200, 310)
    np.testing.assert_array_equal(explained.frame, frame)
    heat = explained.heat
    assert heat is not None
    row, column = np.unravel_index(heat.values.argmax(), heat.values.shape)
    x = (column + 0.5 - heat.view.shift[0]) / heat.view.scale[0]
    y = (row + 0.5 - heat.view.shift[1]) / heat.view.scale[1]
    assert 124 - 5 <= x <= 148 + 5
    assert 100 - 5 <= y <= 124 + 5
    assert heat.values.max() >= 1 > heat.values.min()


def test_classification_has_no_map_and_is_explained_too(tmp_path: Path, small: ModuleType, dense: ModuleType) -> None:
    signer = small.Signer.make(tmp_path / "keys")
    bundle = small.plan().write(tmp_path / "out", signer)
    with Predictor.from_bundle(bundle, [signer.public]) as predictor:
        grey = dense.frame(40, 50)[:, :, 0].astype(np.uint16) * 257
        explained = predictor.explain(grey)
        assert explained.prediction.probabilities == predictor.predict_image(grey).probabilities
    assert explained.heat is None
    assert explained.prediction.marks is None
    np.testing.assert_array_equal(explained.frame, dense.frame(40, 50))

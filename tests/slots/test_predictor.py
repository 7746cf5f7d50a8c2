from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from edge_sft import Policy, Predictor, Sample
from edge_sft.bundle.reading import open_verified
from edge_sft.engines.protocol import EngineInfo
from edge_sft.errors import BundleRefused, DataError, DeviceError, UserError
from edge_sft.prediction import Envelope
from edge_sft.preprocess import image_tensor
from edge_sft.slots.store import SlotStore


@pytest.fixture
def extracted(tmp_path: Path, small: ModuleType) -> Callable[..., Path]:
    signer = small.Signer.make(tmp_path / "keys")

    def make(**changes: Any) -> Path:
        bundle = small.plan(**changes).write(tmp_path / "out", signer)
        folder = tmp_path / "slot"
        open_verified(bundle, [signer.public]).extract_to(folder)
        return folder

    return make


def sample(data: Any, *, age_s: float = 0.0, **changes: Any) -> Sample:
    now = datetime.now(timezone.utc)
    return Sample(data, now, time.monotonic() - age_s, **{"stream": "cam", **changes})


FRAME = np.full((48, 64, 3), 200, np.uint8)


def test_a_prediction_says_everything(extracted: Callable[..., Path], small: ModuleType) -> None:
    with Predictor.open(extracted()) as predictor:
        got = predictor.predict(sample(FRAME, part_id="P-1", name="frame 7"))
        identity = predictor.model
    assert (got.stream, got.part_id, got.name) == ("cam", "P-1", "frame 7")
    assert got.verdict in ("ok", "nok")
    assert got.model == identity
    assert (identity.name, identity.version, identity.variant) == ("small", "1.0.0", "fp32")
    assert got.policy_version == Policy(labels=small.LABELS, ok_labels=("good",)).version
    assert got.probabilities is not None
    assert sum(got.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert got.confidence == pytest.approx(got.probabilities[got.label])
    assert 0 < got.latency_ms < 5000
    Envelope.from_json(Envelope(stream="cam", epoch="0" * 16, seq=0, prediction=got).to_json())


def test_the_numbers_are_the_graph_s(extracted: Callable[..., Path], small: ModuleType) -> None:
    folder = extracted()
    with Predictor.open(folder) as predictor:
        got = predictor.predict(sample(FRAME)).probabilities
        tensor = image_tensor(FRAME, predictor_geometry(folder))[None]
    assert got is not None
    np.testing.assert_array_equal(
        np.float32(list(got.values())), small.run((folder / "fp32.onnx").read_bytes(), tensor)[0]
    )


def predictor_geometry(folder: Path) -> Any:
    from edge_sft.slots.store import read_manifest

    return read_manifest(folder).preprocess


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (sample(None, fault="camera unplugged"), "camera unplugged"),
        (sample(None), "holds no data"),
        (sample(np.zeros((0, 5, 3), np.uint8)), "shape"),
        (sample(np.zeros((5, 5, 3), np.float64)), "dtype"),
        (sample(np.zeros((5, 5, 2), np.uint8)), "channels"),
    ],
)
def test_a_bad_frame_is_no_decision(extracted: Callable[..., Path], bad: Sample, reason: str) -> None:
    with Predictor.open(extracted()) as predictor:
        got = predictor.predict(bad)
        with pytest.raises(DataError):
            predictor.prepare(bad)
    assert got.verdict == "no_decision"
    assert got.reason is not None
    assert reason in got.reason
    assert got.probabilities is None
    assert got.label is None


def test_a_stale_sample_is_no_decision_and_costs_no_inference(extracted: Callable[..., Path]) -> None:
    with Predictor.open(extracted(), deadline_ms=100) as predictor:
        predictor._engine.infer = forbidden  # type: ignore[method-assign]
        got = predictor.predict(sample(FRAME, age_s=0.5))
    assert got.verdict == "no_decision"
    assert got.reason is not None
    assert got.reason.startswith("deadline missed: 5")
    assert got.latency_ms >= 500


def forbidden(_: Any) -> Any:
    raise AssertionError


def test_a_deadline_missed_while_inferring_is_no_decision(extracted: Callable[..., Path]) -> None:
    with Predictor.open(extracted(), deadline_ms=200) as predictor:
        quick = predictor._engine.infer

        def slow(inputs: Any) -> Any:
            time.sleep(0.25)
            return quick(inputs)

        predictor._engine.infer = slow  # type: ignore[method-assign]
        got = predictor.predict(sample(FRAME))
    assert got.verdict == "no_decision"
    assert got.probabilities is None


def test_the_shorter_of_two_deadlines_wins(extracted: Callable[..., Path], small: ModuleType) -> None:
    rule = Policy(labels=small.LABELS, ok_labels=("good",), deadline_ms=50)
    folder = extracted(policy=rule)
    for given, wanted in ((None, 50), (20, 20), (100, 50)):
        with Predictor.open(folder, deadline_ms=given) as predictor:
            assert predictor.deadline_ms == wanted


def test_nan_outputs_are_no_decision(extracted: Callable[..., Path], small: ModuleType) -> None:
    with Predictor.open(extracted(graphs={"fp32": small.graph(nan=True)})) as predictor:
        got = predictor.predict(sample(FRAME))
    assert got.verdict == "no_decision"
    assert got.reason == "model output is not finite"
    assert got.probabilities is None


def test_a_failing_engine_is_no_decision(extracted: Callable[..., Path]) -> None:
    with Predictor.open(extracted()) as predictor:

        def fails(_: Any) -> Any:
            raise DeviceError("fp32.onnx", "failed while inferring (out of memory)", "")

        predictor._engine.infer = fails  # type: ignore[method-assign]
        got = predictor.predict(sample(FRAME))
    assert got.verdict == "no_decision"
    assert "out of memory" in str(got.reason)


def test_a_clock_that_jumps_back_gives_no_negative_latency(extracted: Callable[..., Path]) -> None:
    with Predictor.open(extracted(), deadline_ms=100) as predictor:
        got = predictor.predict(sample(FRAME, age_s=-5))
    assert got.latency_ms == 0
    assert got.verdict != "no_decision"


def test_a_policy_for_other_labels_is_refused(extracted: Callable[..., Path]) -> None:
    with pytest.raises(BundleRefused, match="labels"):
        Predictor.open(extracted(), policy=Policy(labels=("a", "b")))


def test_the_site_policy_in_a_slot_is_used(extracted: Callable[..., Path], small: ModuleType) -> None:
    folder = extracted()
    strict = Policy(labels=small.LABELS, ok_labels=("good",), threshold=0.0)
    (folder / "site-policy.json").write_text(strict.model_dump_json())
    with Predictor.open(folder) as predictor:
        got = predictor.predict(sample(FRAME))
    assert got.policy_version == strict.version
    assert got.verdict == "nok"


def test_an_unknown_variant_names_the_known_ones(extracted: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="It holds: fp32"):
        Predictor.open(extracted(), variant="fp16")


def test_a_folder_that_is_no_slot_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(BundleRefused):
            Predictor.open(folder)


def test_frames_are_prepared_in_many_threads_at_once(extracted: Callable[..., Path]) -> None:
    frames = [np.full((40 + i, 50, 3), i, np.uint8) for i in range(20)]
    with Predictor.open(extracted()) as predictor, ThreadPoolExecutor(4) as pool:
        tensors = list(pool.map(predictor.prepare, [sample(frame) for frame in frames]))
        single = [predictor.prepare(sample(frame)) for frame in frames]
        together = [predictor.infer(tensor, sample(None)) for tensor in tensors]
        alone = [predictor.predict(sample(frame)) for frame in frames]
    for one, other in zip(tensors, single, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [p.probabilities for p in together] == [p.probabilities for p in alone]


def test_from_bundle_verifies_and_cleans_up(tmp_path: Path, small: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    signer, other = small.Signer.make(tmp_path / "keys"), small.Signer.make(tmp_path / "other")
    bundle = small.plan().write(tmp_path / "out", signer)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with Predictor.from_bundle(str(bundle), public_key=signer.public_path) as predictor:
        got = predictor.predict_image(FRAME, part_id="P-9")
        assert list(scratch.iterdir())
    assert not list(scratch.iterdir())
    assert got.part_id == "P-9"
    with pytest.raises(UserError, match="without a key"):
        Predictor.from_bundle(bundle)
    with pytest.raises(BundleRefused):
        Predictor.from_bundle(bundle, [other.public])
    with pytest.raises(UserError, match="variant"):
        Predictor.from_bundle(bundle, [signer.public], variant="int8-cpu")
    assert not list(scratch.iterdir())


def test_a_picture_file_and_its_frame_agree(tmp_path: Path, extracted: Callable[..., Path]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = tmp_path / "Prüfling 1.png"
    path.write_bytes(cv2.imencode(".png", frame[:, :, ::-1])[1].tobytes())
    with Predictor.open(extracted(), deadline_ms=0.001) as predictor:  # a deadline is for the line, not for files
        from_file, from_frame = predictor.predict_image(path), predictor.predict_image(frame)
    assert from_file.probabilities == from_frame.probabilities
    assert from_file.probabilities is not None
    assert from_file.name == "Prüfling 1.png"


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_broken_picture_file_is_no_decision(
    tmp_path: Path, extracted: Callable[..., Path], content: bytes | None
) -> None:
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with Predictor.open(extracted()) as predictor:
        got = predictor.predict_image(path)
    assert got.verdict == "no_decision"
    assert "broken.jpg" in str(got.reason)


def test_memory_is_counted_and_the_engine_told(extracted: Callable[..., Path]) -> None:
    with Predictor.open(extracted(), threads=1) as predictor:
        assert predictor.memory_mb >= 0
        assert isinstance(predictor.engine, EngineInfo)
        assert predictor.engine.threads == 1


def test_from_device_falls_back_when_the_current_slot_rots(tmp_path: Path, small: ModuleType) -> None:
    signer = small.Signer.make(tmp_path / "keys")
    store = SlotStore(tmp_path / "root")
    digests = []
    for seed in range(2):
        bundle = open_verified(small.plan(seed).write(tmp_path / "out", signer), [signer.public])
        with store.lock(), store.staging() as folder:
            bundle.extract_to(folder)
            slot = store.commit(folder)
        digests.append(bundle.digest)
    with Predictor.from_device(tmp_path / "root") as predictor:
        assert predictor.model.digest == digests[1]
        assert predictor.note is None
    (slot.path / "fp32.onnx").write_bytes(b"rot")
    with Predictor.from_device(tmp_path / "root") as predictor:
        assert predictor.model.digest == digests[0]
        assert "serving the previous slot" in str(predictor.note)


def test_a_slot_exchanged_while_it_is_loaded_is_refused(
    extracted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_sft.slots import opening as module

    folder = extracted()
    real = module.open_engine

    def exchanged(*arguments: Any) -> Any:
        engine = real(*arguments)
        folder.rename(folder.with_name("aside"))
        folder.mkdir()
        return engine

    monkeypatch.setattr(module, "open_engine", exchanged)
    with pytest.raises(BundleRefused, match="replaced while"):
        Predictor.open(folder)

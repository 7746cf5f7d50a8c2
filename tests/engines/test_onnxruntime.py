from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest

from edge_sft.engines import onnxruntime as ours
from edge_sft.engines.protocol import open_engine
from edge_sft.errors import DeviceError


@pytest.fixture
def model(tmp_path: Path, small: ModuleType) -> Path:
    path = tmp_path / "fp32.onnx"
    path.write_bytes(small.graph())
    return path


def test_reports_provider_version_and_threads(model: Path, small: ModuleType) -> None:
    with open_engine(model, small.profile(threads=2)) as engine:
        assert engine.info.provider == "CPUExecutionProvider"
        assert engine.info.library_version == onnxruntime.__version__
        assert engine.info.threads == 2


def test_gives_what_the_bare_library_gives(model: Path, small: ModuleType) -> None:
    images = small.pictures(4, 16)
    with open_engine(model, small.profile()) as engine:
        got = engine.infer({"image": images})["probabilities"]
    np.testing.assert_array_equal(got, small.run(model.read_bytes(), images))


@pytest.mark.parametrize("content", [b"", b"this is no model", b"\x08\x0a\x3a\x03\x12\x01g"])
def test_a_file_that_is_no_model_is_refused_in_words(tmp_path: Path, small: ModuleType, content: bytes) -> None:
    broken = tmp_path / "fp32.onnx"
    broken.write_bytes(content)
    with pytest.raises(DeviceError) as caught:
        open_engine(broken, small.profile())
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_in_words(tmp_path: Path, small: ModuleType) -> None:
    with pytest.raises(DeviceError):
        open_engine(tmp_path / "none.onnx", small.profile())


def test_cuda_is_refused_where_the_library_has_none(
    model: Path, small: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="cuda"):
        open_engine(model, small.profile(provider="cuda"))


def test_cuda_that_silently_became_cpu_is_refused(
    model: Path, small: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnxruntime.InferenceSession

    def falls_back(path: str, options: object, providers: list[str]) -> object:
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(DeviceError, match="fell back to CPUExecutionProvider"):
        open_engine(model, small.profile(provider="cuda"))


def test_an_unknown_input_type_is_refused(tmp_path: Path, small: ModuleType) -> None:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [1])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [1])],
    )
    path = tmp_path / "double.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DeviceError, match="double"):
        open_engine(path, small.profile())


@pytest.mark.skipif(not hasattr(os, "times"), reason="needs process times")
def test_idle_threads_do_not_spin(tmp_path: Path, small: ModuleType) -> None:
    import time

    path = tmp_path / "fp32.onnx"
    path.write_bytes(small.graph(work=4))
    with open_engine(path, small.profile(threads=2)) as engine:
        for _ in range(5):
            engine.infer({"image": np.zeros((1, 16, 16, 3), np.uint8)})
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.1


def test_noise_of_the_library_stays_off_the_terminal(
    tmp_path: Path, small: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "fp32.onnx"
    broken.write_bytes(small.graph()[:-200])
    with pytest.raises(DeviceError):
        ours.open_engine(broken, small.profile())
    assert capfd.readouterr() == ("", "")

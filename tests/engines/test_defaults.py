"""Inputs with a default: left out or given, on every engine, and taken out of the bytes for NVIDIA's parsers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_sft.engines.nvidia import running
from edge_sft.engines.nvidia.defaults import take_out
from edge_sft.engines.protocol import EngineNotBuilt, Workplace, open_engine
from edge_sft.errors import BugError

SIZE = 16
OTHER = np.array([[0.0], [1.0]], np.float32)


@pytest.fixture
def model(tmp_path: Path, dense: ModuleType) -> Path:
    path = tmp_path / "fp32.onnx"
    path.write_bytes(dense.anomaly(SIZE))
    return path


@pytest.fixture(params=["onnxruntime", "tensorrt"])
def engine(request: pytest.FixtureRequest, model: Path, small: ModuleType) -> Any:
    if request.param == "tensorrt":
        request.getfixturevalue("nvidia")
    return open_engine(model, small.profile(engine=request.param), Workplace())


def test_an_input_with_a_default_may_be_left_out_and_given(engine: Any, model: Path, dense: ModuleType) -> None:
    images = np.stack([dense.frame(SIZE, SIZE, (0, 0, 8), value=value) for value in (0, 255)])
    with engine:
        for bank in (None, OTHER, None, dense.BANK, OTHER):
            given = {} if bank is None else {"bank": bank}
            got = engine.infer({"image": images, **given})
            want = dense.answers(model.read_bytes(), {"image": images, **given})
            for name, array in want.items():
                np.testing.assert_allclose(got[name], array, atol=1e-6)


def test_what_is_written_into_between_two_calls_is_seen(engine: Any, model: Path, dense: ModuleType) -> None:
    images, bank = dense.frame(SIZE, SIZE)[None], OTHER.copy()
    with engine:
        before = engine.infer({"image": images, "bank": bank})["score"]
        bank[:] = dense.GREY / 255
        after = engine.infer({"image": images, "bank": bank})["score"]
    assert before[0] > 0.4
    assert after[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "inputs",
    [
        {"bank": OTHER},
        {"image": np.zeros((1, SIZE, SIZE, 3), np.uint8), "bank": OTHER[:1]},
        {"image": np.zeros((1, SIZE, SIZE, 3), np.uint8), "bank": OTHER.astype(np.float64)},
        {"image": np.zeros((1, SIZE, SIZE, 3), np.uint8), "more": OTHER},
    ],
)
def test_what_has_no_default_must_be_given_and_all_must_fit(engine: Any, inputs: dict[str, Any]) -> None:
    with engine, pytest.raises(BugError):
        engine.infer(inputs)


def test_a_memory_goes_to_the_gpu_once(
    model: Path, small: ModuleType, nvidia: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought: list[str] = []
    real = running.NvidiaEngine._bring

    def seen(self: Any, name: str, tensor: Any, array: Any) -> None:
        brought.append(name)
        real(self, name, tensor, array)

    monkeypatch.setattr(running.NvidiaEngine, "_bring", seen)
    images = np.zeros((3, SIZE, SIZE, 3), np.uint8)
    fixed = OTHER.copy()
    fixed.flags.writeable = False
    with open_engine(model, small.profile(engine="tensorrt"), Workplace()) as engine:
        for _ in range(3):
            engine.infer({"image": images})
        for _ in range(3):
            engine.infer({"image": images, "bank": fixed})
    assert brought == ["bank", "bank"]


def test_the_engine_is_kept_under_the_file_s_own_digest(
    model: Path, small: ModuleType, nvidia: ModuleType, tmp_path: Path, seal: Any
) -> None:
    import hashlib

    from edge_sft.engines.plans import PlanCache

    place = Workplace(PlanCache(tmp_path / "engines", seal))
    images = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    with open_engine(model, small.profile(engine="tensorrt"), place) as engine:
        built = engine.infer({"image": images})["score"]
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert any(digest in path.read_bytes().decode("latin-1") for path in (tmp_path / "engines").glob("*.plan"))
    with open_engine(model, small.profile(engine="tensorrt"), place) as engine:
        assert engine.info.plan == "cached"
        np.testing.assert_array_equal(engine.infer({"image": images})["score"], built)


# --- the bytes -----------------------------------------------------------------------------------------------


def test_only_the_default_is_taken_out_of_the_bytes(dense: ModuleType) -> None:
    content = dense.anomaly(SIZE)
    bare, values = take_out(content, source="m")
    assert values.keys() == {"bank"}
    np.testing.assert_array_equal(values["bank"], dense.BANK)
    assert not values["bank"].flags.writeable
    want = onnx.load_from_string(content)
    kept = [tensor for tensor in want.graph.initializer if tensor.name != "bank"]
    del want.graph.initializer[:]
    want.graph.initializer.extend(kept)
    assert onnx.load_from_string(bare) == want
    images = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    one, other = dense.answers(content, {"image": images}), dense.answers(bare, {"image": images, **values})
    np.testing.assert_array_equal(one["score"], other["score"])


def test_bytes_without_a_default_stay_the_same_object(small: ModuleType) -> None:
    content = small.graph()
    bare, values = take_out(content, source="m")
    assert bare is content
    assert values == {}


def stored(tensor: Any) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["a"], ["b"])],
        "g",
        [helper.make_tensor_value_info("a", tensor.data_type, list(tensor.dims))],
        [helper.make_tensor_value_info("b", tensor.data_type, list(tensor.dims))],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, doc_string="x" * 300)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("shape", [(), (1,), (300, 70), (0, 4)])
@pytest.mark.parametrize("raw", [True, False])
def test_values_are_read_as_onnx_reads_them(shape: tuple[int, ...], raw: bool) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    tensor = (
        numpy_helper.from_array(values, "a")
        if raw
        else helper.make_tensor("a", TensorProto.FLOAT, shape, values.ravel().tolist())
    )
    bare, found = take_out(stored(tensor), source="m")
    np.testing.assert_array_equal(found["a"], values)
    assert not onnx.load_from_string(bare).graph.initializer
    assert onnx.load_from_string(bare).doc_string == "x" * 300


def test_a_default_of_another_type_is_refused_in_words() -> None:
    with pytest.raises(EngineNotBuilt, match="the default of 'a' in m: is no float32"):
        take_out(stored(numpy_helper.from_array(np.zeros(3, np.int64), "a")), source="m")


@pytest.mark.parametrize("content", [b"\x3a\xff\xff\xff\x7f", b"\x3a\x02\x2a\x7f", b"no model"])
def test_bytes_that_are_no_model_are_refused_in_words(content: bytes) -> None:
    with pytest.raises(EngineNotBuilt, match="no readable ONNX graph"):
        take_out(content, source="m")


# --- NVIDIA's own parser -------------------------------------------------------------------------------------


def test_nvidia_s_parser_sees_the_input_once_its_default_is_out(dense: ModuleType) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: its parser was not asked")
    from edge_sft.engines.nvidia.building import build
    from edge_sft.profile import Building

    def seen(content: bytes) -> set[str]:
        builder = rtx.Builder(rtx.Logger(rtx.Logger.ERROR))
        network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = rtx.OnnxParser(network, rtx.Logger(rtx.Logger.ERROR))
        assert parser.parse(content), [parser.get_error(i).desc() for i in range(parser.num_errors)]
        names = {network.get_input(index).name for index in range(network.num_inputs)}
        del parser
        return names

    content = dense.anomaly(SIZE)
    assert seen(content) == {"image"}
    assert seen(take_out(content, source="m")[0]) == {"image", "bank"}
    built = build(rtx, content, Building(batch_max=8), source="m", targets=("8.9",))
    assert built.plan


# --- through the Predictor -----------------------------------------------------------------------------------


def test_tiles_go_through_a_gpu_in_batches_with_the_machine_s_own_memory(
    tmp_path: Path, small: ModuleType, dense: ModuleType, nvidia: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_sft import Predictor
    from edge_sft.bundle.reading import open_verified
    from edge_sft.preprocess import Preprocess, Tiles
    from edge_sft.preprocess.tiling import AT_ONCE

    signer = small.Signer.make(tmp_path / "keys")
    plan = dense.DensePlan("anomaly", preprocess=Preprocess(height=64, width=64, tiles=Tiles(overlap=32)))
    folder = tmp_path / "slot"
    open_verified(plan.write(tmp_path / "out", signer.private), [signer.public]).extract_to(folder)
    asked: list[int] = []
    real = running.NvidiaEngine._part

    def seen(self: Any, inputs: Any, at: int, batch: int) -> Any:
        asked.append(batch)
        return real(self, inputs, at, batch)

    monkeypatch.setattr(running.NvidiaEngine, "_part", seen)
    frame = dense.frame(200, 310, (100, 124, 12))
    for local in ({}, {"bank": np.array([[0.45], [1.0]], np.float32)}):
        with Predictor.open(folder, local=local) as predictor:
            want = predictor.predict_image(frame)
        with Predictor.open(folder, local=local, profile=small.profile(engine="tensorrt")) as predictor:
            asked.clear()
            got = predictor.predict_image(frame)
        assert (got.verdict, got.marks) == (want.verdict, want.marks)
        assert got.score == pytest.approx(want.score, abs=1e-5)
        assert set(asked[:-1]) == {AT_ONCE}
    assert got.verdict == "ok"  # bright is what this machine remembers


def test_the_bare_loop_has_the_default_too(
    model: Path, small: ModuleType, dense: ModuleType, nvidia: ModuleType
) -> None:
    from edge_sft.deploy.bench_bare import open_bare

    images = np.stack([dense.frame(SIZE, SIZE, (0, 0, 8))])
    with open_engine(model, small.profile(engine="tensorrt"), Workplace()) as engine:
        want = engine.infer({"image": images})["score"]
        loop = open_bare(model, engine)({"image": images})
        loop()
        np.testing.assert_array_equal(loop.output("score", np.float32), want)  # type: ignore[attr-defined]

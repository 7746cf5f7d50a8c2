"""NVIDIA's real parser and builder, TensorRT-RTX, where there is no GPU: engines are really built, sealed, cached and
read again, up to the step that needs a GPU, which then says so."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_sft.engines.nvidia.cuda import Gpu
from edge_sft.engines.nvidia.opening import build_ahead, open_nvidia
from edge_sft.engines.plans import PlanCache
from edge_sft.engines.protocol import EngineNotBuilt, Workplace, open_engine
from edge_sft.errors import DeviceError
from edge_sft.profile import Accelerator, Building, DeviceProfile

pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: that NVIDIA's builder builds is not proved")


class GpuOnPaper:
    """Facts of a GPU that is not here; all that an engine asks of it before NVIDIA's library has loaded the plan."""

    def gpu(self) -> Gpu:
        return Gpu("NVIDIA GeForce RTX 4060", "8.9", 8188, "580.1")

    def enter(self) -> None:
        pass


@pytest.fixture
def profile(small: ModuleType) -> DeviceProfile:
    target = Accelerator(compute_capabilities=("8.6", "8.9", "12.0"), memory_mb=8000)
    return small.profile(  # type: ignore[no-any-return]
        engine="tensorrt_rtx", accelerator=target, building=Building(batch_max=8, workspace_mb=512)
    )


def convolutions() -> Any:
    """Two convolutions and a linear layer on uint8 pictures [N,16,16,3]."""
    from onnx import numpy_helper, parser

    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 20]>
        g (uint8[N,16,16,3] image) => (float[N,3] probabilities) {
            f = Cast<to=1>(image)
            scaled = Div(f, c255)
            nchw = Transpose<perm=[0,3,1,2]>(scaled)
            a = Conv<pads=[1,1,1,1]>(nchw, w1)
            b = Relu(a)
            c = Conv<strides=[2,2]>(b, w2)
            d = GlobalAveragePool(c)
            flat = Flatten(d)
            linear = MatMul(flat, w3)
            probabilities = Softmax<axis=1>(linear)
        }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (8, 3, 3, 3), "w2": (16, 8, 3, 3), "w3": (16, 3), "c255": ()}.items():
        values = np.float32(255) if name == "c255" else rng.normal(0, 0.3, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return model


def variant(kind: str, folder: Path, small: ModuleType) -> Path:
    import onnx

    path = folder / "fp32.onnx"
    onnx.save(convolutions(), path)
    if kind == "fp16":
        from edge_sft.export.half import save

        return save(onnx.load(path), (), folder)
    if kind == "int8-trt":
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        class Pictures(CalibrationDataReader):
            def __init__(self) -> None:
                self.left = [{"image": each[None]} for each in small.pictures(8, 16)]

            def get_next(self) -> Any:
                return self.left.pop() if self.left else None

        int8 = folder / "int8-trt.onnx"
        symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
        quantize_static(
            path,
            int8,
            Pictures(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options=symmetric,
        )
        return int8
    return path


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8-trt"])
@pytest.mark.filterwarnings("ignore")  # of ONNX Runtime's quantizer
def test_every_precision_is_built_for_three_gpus_without_one(
    tmp_path: Path, small: ModuleType, profile: DeviceProfile, kind: str
) -> None:
    told: list[str] = []
    model = variant(kind, tmp_path, small)
    built = build_ahead(model, profile, Workplace(tell=lambda text, share: told.append(text)))
    assert len(built.plan) > 10_000
    assert built.seconds > 0
    assert told[0] == "building the engine"


@pytest.mark.parametrize("kind", ["anomaly", "regression"])
def test_sensor_graphs_with_what_is_local_to_a_machine_are_built(
    tmp_path: Path, windows: ModuleType, profile: DeviceProfile, kind: str
) -> None:
    model = tmp_path / "fp32.onnx"
    model.write_bytes(getattr(windows, kind)(24, 3))
    assert len(build_ahead(model, profile).plan) > 10_000


def test_a_bank_of_examples_is_built(tmp_path: Path, profile: DeviceProfile) -> None:
    from onnx import parser

    text = """<ir_version: 9, opset_import: ["" : 18]>
        g (float[N,64] window, float[500,64] bank) => (float[N] score) {
            turned = Transpose<perm=[1,0]>(bank)
            dot = MatMul(window, turned)
            near = ReduceMax<keepdims=0>(dot, axis)
            score = Neg(near) }"""
    from onnx import numpy_helper

    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    path = tmp_path / "fp32.onnx"
    path.write_bytes(model.SerializeToString())
    assert build_ahead(path, profile).plan


def test_what_the_parser_refuses_is_told_by_node(tmp_path: Path, profile: DeviceProfile) -> None:
    from onnx import parser

    text = '<ir_version: 9, opset_import: ["" : 18]> g (float[N,3] x) => (int64[2,K] y) { y = NonZero(x) }'
    path = tmp_path / "fp32.onnx"
    path.write_bytes(parser.parse_model(text).SerializeToString())
    with pytest.raises(EngineNotBuilt) as caught:
        build_ahead(path, profile)
    assert "NonZero" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_open_than_the_batch_is_refused(tmp_path: Path, profile: DeviceProfile) -> None:
    from onnx import parser

    text = '<ir_version: 9, opset_import: ["" : 18]> g (float[N,M] x) => (float[N,M] y) { y = Relu(x) }'
    path = tmp_path / "fp32.onnx"
    path.write_bytes(parser.parse_model(text).SerializeToString())
    with pytest.raises(EngineNotBuilt, match="leaves more open in 'x'"):
        build_ahead(path, profile)


@pytest.mark.parametrize("content", [b"", b"this is no model"])
def test_no_model_is_refused_in_one_line(tmp_path: Path, profile: DeviceProfile, content: bytes) -> None:
    path = tmp_path / "fp32.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineNotBuilt) as caught:
        build_ahead(path, profile)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_rtx_does_not_build_for_is_named(tmp_path: Path, small: ModuleType, profile: DeviceProfile) -> None:
    orin = Accelerator(compute_capabilities=("8.7",), memory_mb=8000)
    path = tmp_path / "fp32.onnx"
    path.write_bytes(small.graph())
    with pytest.raises(EngineNotBuilt, match=r"compute capability 8\.7.*engine = 'tensorrt'"):
        build_ahead(path, profile.model_copy(update={"accelerator": orin}))
    with pytest.raises(DeviceError, match="names no GPU"):
        build_ahead(path, profile.model_copy(update={"accelerator": None}))


def test_too_short_a_time_is_said(tmp_path: Path, small: ModuleType, profile: DeviceProfile) -> None:
    path = tmp_path / "fp32.onnx"
    path.write_bytes(small.graph())
    hasty = profile.model_copy(update={"building": Building(timeout_s=1e-6)})
    try:
        build_ahead(path, hasty)
    except EngineNotBuilt as error:
        refused = str(error)
    else:
        pytest.skip("this TensorRT-RTX tells nothing of its progress: only the parent's limit ends its builds")
    assert "was not built within 1e-06 s" in refused


def test_built_sealed_cached_and_read_again_up_to_the_gpu(
    tmp_path: Path, small: ModuleType, profile: DeviceProfile, seal: Any
) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU: tests/engines/test_contract.py goes all the way")
    path = tmp_path / "fp32.onnx"
    path.write_bytes(small.graph())
    cache, told = PlanCache(tmp_path / "engines", seal), list[str]()
    for _ in range(2):
        with pytest.raises(EngineNotBuilt, match=r"TensorRT-RTX loads no such plan .*cudaError") as caught:
            open_nvidia(
                "tensorrt_rtx", path, profile, Workplace(cache, lambda text, share: told.append(text)), cuda=GpuOnPaper
            )
        assert "\n" not in str(caught.value)
    assert "no engine of this model was built here yet" in told[0]
    assert any("the cached engine does not load" in each for each in told)  # it was found, verified and tried
    [(_, head)] = [(each, head) for each, head in cache._heads() if each.suffix == ".plan"]
    assert (head.facts.gpu, head.facts.compute_capability) == ("NVIDIA GeForce RTX 4060", "8.9")
    assert cache.read(head.facts).content


def test_without_a_gpu_nothing_is_built_and_it_is_said(
    tmp_path: Path, small: ModuleType, profile: DeviceProfile
) -> None:
    if Path("/dev/nvidiactl").exists() or sys.platform == "win32":
        pytest.skip("there is a GPU")
    path = tmp_path / "fp32.onnx"
    path.write_bytes(small.graph())
    with pytest.raises(DeviceError, match="NVIDIA GPU"):
        open_engine(path, profile)

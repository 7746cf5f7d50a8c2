"""Bundles of sensor models through the same proof: golden windows, local inputs, outputs in units of their own."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_sft.bundle.manifest import Draft, VariantEntry
from edge_sft.bundle.writing import write_bundle
from edge_sft.deploy import candidates
from edge_sft.deploy.local import deploy
from edge_sft.errors import BundleRefused
from edge_sft.policy import AnomalyPolicy, AnyPolicy, RegressionPolicy
from edge_sft.preprocess import Channel, Windowing
from edge_sft.slots.golden import Golden, compare, load
from edge_sft.slots.proof import Proof
from edge_sft.task import Task, window_anomaly, window_regression

STEPS, CHANNELS = 8, 2
LIFE = window_regression(STEPS, CHANNELS, (0.05, 0.95), "hours")
ANOMALY = window_anomaly(STEPS, CHANNELS, None)


def graph(task: Task, *, work: int = 0, plus: float = 0.0) -> bytes:
    """The window's mean, against the machine's own where the task has it; ``work`` adds useless products."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants: dict[str, Any] = {"axes": np.array([1]), "both": np.array([1, 2]), "plus": np.float32(plus)}
    nodes = [helper.make_node("Mul", ["window", "valid"], ["seen"])]
    if task.kind == "anomaly":
        nodes += [
            helper.make_node("Sub", ["seen", "mean"], ["apart"]),
            helper.make_node("Div", ["apart", "std"], ["z"]),
            helper.make_node("Abs", ["z"], ["far"]),
            helper.make_node("ReduceMean", ["far", "axes"], ["by"], keepdims=0),
            helper.make_node("Softmax", ["by"], ["contributions"], axis=1),
            helper.make_node("ReduceMean", ["far", "both"], ["plain"], keepdims=0),
        ]
    else:
        constants["ends"] = np.array([[-1.0, 1.0]], np.float32)
        constants["last"] = np.array([1])
        nodes.append(helper.make_node("ReduceMean", ["seen", "both"], ["plain"], keepdims=0))
    last = "plain"
    if work:
        constants |= {"square": np.full((384, 384), 1e-4, np.float32), "zero": np.float32(0)}
        nodes.append(helper.make_node("ReduceMax", ["plain"], ["top"], keepdims=0))
        nodes.append(helper.make_node("Add", ["square", "top"], ["m0"]))
        nodes += [helper.make_node("MatMul", [f"m{i}", "square"], [f"m{i + 1}"]) for i in range(work)]
        nodes.append(helper.make_node("ReduceMean", [f"m{work}"], ["waste"], keepdims=0))
        nodes.append(helper.make_node("Mul", ["waste", "zero"], ["nothing"]))
        nodes.append(helper.make_node("Add", ["plain", "nothing"], ["worked"]))
        last = "worked"
    first = task.outputs[0].name
    nodes.append(helper.make_node("Add", [last, "plus"], [first]))
    if task.kind == "regression":
        nodes.append(helper.make_node("Unsqueeze", [first, "last"], ["column"]))
        nodes.append(helper.make_node("Add", ["column", "ends"], ["quantiles"]))

    def value(spec: Any) -> Any:
        shape = ["N" if axis == -1 else axis for axis in spec.shape]
        return helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, shape)

    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    made = helper.make_graph(
        nodes, "small", [value(spec) for spec in task.inputs], [value(spec) for spec in task.outputs], stored
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def samples(task: Task) -> dict[str, Any]:
    """Eight windows around 100, and a machine whose own mean is 90."""
    random = np.random.default_rng(0)
    window = (100 + random.normal(0, 5, (8, STEPS, CHANNELS))).astype(np.float32)
    arrays: dict[str, Any] = {"in/window": window, "in/valid": np.ones_like(window)}
    if task.kind == "anomaly":
        arrays |= {"local/mean": np.full(CHANNELS, 90, np.float32), "local/std": np.full(CHANNELS, 2, np.float32)}
    return arrays


def answers(content: bytes, arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    given = {key.partition("/")[2]: array for key, array in arrays.items()}
    return dict(zip(names, session.run(names, given), strict=True))


@dataclass
class Device:
    small: ModuleType
    signer: Any
    home: Path

    def bundle(self, task: Task, graphs: dict[str, bytes], *, expects: dict[str, bytes] | None = None) -> Path:
        arrays = samples(task)
        for variant, content in {**graphs, **(expects or {})}.items():
            said = answers(content, samples(task))
            arrays |= {f"out/{variant}/{name}": array for name, array in said.items()}
        archive = io.BytesIO()
        np.savez(archive, **arrays)
        policy: AnyPolicy = AnomalyPolicy() if task.kind == "anomaly" else RegressionPolicy(act_below=20)
        files: dict[str, bytes | Path] = {f"{variant}.onnx": content for variant, content in graphs.items()}
        files |= {"golden.npz": archive.getvalue(), "policy.json": policy.model_dump_json().encode()}
        draft = Draft(
            name="machines",
            version="1.0.0",
            created_at="2026-01-01T00:00:00.000Z",
            made_by="tests",
            task=task,
            preprocess=Windowing(channels=(Channel(name="a"), Channel(name="b")), period_s=1.0, length=STEPS),
            variants=tuple(VariantEntry(variant=v, file=f"{v}.onnx", golden_tolerance=1e-3) for v in graphs),  # type: ignore[arg-type]
            dataset_fingerprint="0" * 64,
            weights_sha256="0" * 64,
        )
        return write_bundle(self.home, draft, files, self.signer.private)

    def deploy(self, bundle: Path) -> Proof:
        profile = self.small.profile()
        return deploy(bundle, self.home / "root", profile=profile, trusted_keys=[self.signer.public])


@pytest.fixture
def device(tmp_path: Path, small: ModuleType) -> Device:
    return Device(small, small.Signer.make(tmp_path / "keys"), tmp_path)


def test_int8_that_is_slower_on_a_small_net_is_refused_in_words(device: Device) -> None:
    proof = device.deploy(device.bundle(LIFE, {"fp32": graph(LIFE), "int8-cpu": graph(LIFE, work=4)}))
    assert proof.chosen == "fp32"
    assert proof.frame == f"{STEPS}x{CHANNELS}"
    int8, fp32 = proof.of("int8-cpu"), proof.of("fp32")
    assert int8 is not None
    assert fp32 is not None
    assert int8.reason.startswith("not faster than fp32 here: p50 ")
    assert (fp32.golden_samples, fp32.decisions_changed) == (8, 0)
    assert fp32.runs >= 30
    assert fp32.p50_ms is not None
    assert 0 < fp32.p50_ms < 50


def test_an_anomaly_model_is_proved_with_the_local_inputs_that_came_along(device: Device) -> None:
    proof = device.deploy(device.bundle(ANOMALY, {"fp32": graph(ANOMALY)}))
    fp32 = proof.of("fp32")
    assert fp32 is not None
    assert fp32.passed
    assert fp32.golden_difference == pytest.approx(0, abs=1e-5)


def test_answers_that_differ_are_told_in_shares_of_the_output_s_scale(device: Device) -> None:
    bundle = device.bundle(LIFE, {"fp32": graph(LIFE, plus=5.0)}, expects={"fp32": graph(LIFE)})
    with pytest.raises(BundleRefused, match=r"golden outputs differ by 0\.0\d+ on this machine, 0\.001 is allowed"):
        device.deploy(bundle)  # 5 hours of about 100


def test_a_difference_within_the_scale_is_none(tmp_path: Path) -> None:
    inputs = {"window": np.zeros((2, STEPS, CHANNELS), np.float32)}
    expected = {"value": np.array([100.0, 50.0]), "quantiles": np.array([[90.0, 110.0], [40.0, 60.0]])}
    golden = Golden(inputs, {"fp32": expected}, {"mean": np.zeros(2)})
    fed: list[set[str]] = []

    def infer(given: dict[str, Any]) -> dict[str, Any]:
        fed.append(set(given))
        index = len(fed) - 1
        return {name: array[index : index + 1] + 0.05 for name, array in expected.items()}

    found = compare(golden, "fp32", infer, RegressionPolicy(act_below=20))
    assert found.difference == pytest.approx(0.05 / 100)
    assert fed == [{"window", "mean"}] * 2


def test_golden_windows_are_read_with_what_is_local(tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", **samples(ANOMALY), **{"out/fp32/score": np.zeros(8)})
    golden = load(tmp_path)
    assert golden.count == 8
    assert {name: array.shape[0] for name, array in golden.sample(3).items()} == {
        "window": 1,
        "valid": 1,
        "mean": CHANNELS,
        "std": CHANNELS,
    }


def test_what_the_latency_was_measured_with_is_said() -> None:
    assert candidates.measured_with("window", LIFE.inputs) == f"{STEPS}x{CHANNELS}"
    assert candidates.measured_with("image", ()) == "1280x1024"

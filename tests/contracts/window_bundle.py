"""Small real window models in signed bundles, installed in a slot: built with onnx, answered by ONNX Runtime."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edge_sft.bundle.keys import generate, load_private, load_public
from edge_sft.bundle.manifest import Draft, VariantEntry
from edge_sft.bundle.reading import open_verified
from edge_sft.bundle.writing import write_bundle
from edge_sft.policy import AlarmRule, AnyPolicy, RegressionPolicy
from edge_sft.preprocess import Channel, Windowing
from edge_sft.profile import Budgets, DeviceProfile
from edge_sft.slots.proof import PROOF, Proof, VariantProof
from edge_sft.slots.store import Slot, SlotStore
from edge_sft.task import Task, window_anomaly, window_regression

_WINDOWS = ("window", "valid")  # the others are local to a machine, the same for all samples


def windowing(channels: int = 3, **changes: Any) -> Windowing:
    """A grid of 0.1 s, windows of 8 steps, one decision every 2."""
    fields: dict[str, Any] = {"period_s": 0.1, "length": 8, "hop": 2, "min_valid": 0.3, "hold_s": 0.2, **changes}
    stuck_s = fields.pop("stuck_s", None)
    return Windowing(channels=tuple(Channel(name=f"c{index}", stuck_s=stuck_s) for index in range(channels)), **fields)


def _made(
    nodes: list[Any], shapes: dict[str, list[Any]], outputs: dict[str, list[Any]], constants: dict[str, Any]
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def regression(length: int, channels: int, *, seed: int = 0) -> bytes:
    """Estimate = mean of channel 0 over what is valid + a little of everything else; interval ± 1."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, 1e-3, (length, channels)).astype(np.float32)
    node = helper.make_node
    nodes = [
        node("Mul", ["window", "valid"], ["seen"]),
        node("Mul", ["seen", "w"], ["weighted"]),
        node("ReduceSum", ["weighted", "both"], ["little"], keepdims=0),
        node("Slice", ["seen", "first", "second", "last"], ["channel"]),
        node("ReduceSum", ["channel", "both"], ["sum"], keepdims=0),
        node("Slice", ["valid", "first", "second", "last"], ["there"]),
        node("ReduceSum", ["there", "both"], ["count"], keepdims=0),
        node("Max", ["count", "one"], ["least"]),
        node("Div", ["sum", "least"], ["mean"]),
        node("Add", ["mean", "little"], ["value"]),
        node("Unsqueeze", ["value", "last1"], ["column"]),
        node("Add", ["column", "spread"], ["quantiles"]),
    ]
    constants = {
        "w": weights[None],
        "both": np.array([1, 2]),
        "first": np.array([0]),
        "second": np.array([1]),
        "last": np.array([2]),
        "last1": np.array([1]),
        "one": np.float32(1),
        "spread": np.array([[-1.0, 1.0]], np.float32),
    }
    inputs = {name: ["N", length, channels] for name in ("window", "valid")}
    return _made(nodes, inputs, {"value": ["N"], "quantiles": ["N", 2]}, constants)


def anomaly(length: int, channels: int) -> bytes:
    """Score = mean absolute deviation from ``mean`` in ``std``; contributions are each channel's share."""
    node = helper.make_node
    nodes = [
        node("Sub", ["window", "mean"], ["apart"]),
        node("Div", ["apart", "std"], ["standard"]),
        node("Abs", ["standard"], ["far"]),
        node("Mul", ["far", "valid"], ["seen"]),
        node("ReduceMean", ["seen", "time"], ["each"], keepdims=0),
        node("ReduceMean", ["each", "time"], ["score"], keepdims=0),
        node("ReduceSum", ["each", "time"], ["total"], keepdims=1),
        node("Max", ["total", "tiny"], ["least"]),
        node("Div", ["each", "least"], ["contributions"]),
    ]
    shapes: dict[str, list[Any]] = {name: ["N", length, channels] for name in ("window", "valid")}
    shapes |= {"mean": [channels], "std": [channels]}
    constants = {"time": np.array([1]), "tiny": np.float32(1e-9)}
    return _made(nodes, shapes, {"score": ["N"], "contributions": ["N", channels]}, constants)


def answers(content: bytes, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


class Factory:
    """Builds, signs and installs window models; keeps one pair of keys."""

    def __init__(self, folder: Path) -> None:
        pair = generate(folder / "keys", "maker")
        self.private, self.public = load_private(pair.private), load_public(pair.public)
        self.folder = folder
        self.count = 0

    def bundle(
        self,
        how: Windowing,
        *,
        task: Task | None = None,
        graph: bytes | None = None,
        policy: AnyPolicy | None = None,
        seed: int = 0,
    ) -> Path:
        channels = len(how.names)
        task = task or window_regression(how.length, channels, (0.05, 0.95), "hours")
        graph = graph or regression(how.length, channels, seed=seed)
        rule = policy or RegressionPolicy(act_below=0.0, judge="value", alarm=AlarmRule(stale_s=60.0))
        rng = np.random.default_rng(1)
        inputs: dict[str, np.ndarray] = {}
        for spec in task.inputs:
            shape = tuple(4 if axis == -1 else axis for axis in spec.shape)
            inputs[spec.name] = (
                np.ones(shape, np.float32)
                if spec.name in ("valid", "std")
                else rng.normal(size=shape).astype(np.float32)
            )
        golden = {f"{'in' if name in _WINDOWS else 'local'}/{name}": array for name, array in inputs.items()}
        golden |= {f"out/fp32/{name}": array for name, array in answers(graph, inputs).items()}
        golden["label"] = np.zeros(4, np.int64)
        archive = io.BytesIO()
        np.savez(archive, **golden)
        self.count += 1
        draft = Draft(
            name="pump",
            version=f"1.0.{self.count}",
            created_at="2026-01-01T00:00:00.000Z",
            made_by="tests",
            task=task,
            preprocess=how,
            variants=(VariantEntry(variant="fp32", file="fp32.onnx", golden_tolerance=1e-4),),
            dataset_fingerprint="0" * 64,
            weights_sha256="0" * 64,
        )
        files: dict[str, bytes | Path] = {
            "fp32.onnx": graph,
            "golden.npz": archive.getvalue(),
            "policy.json": rule.model_dump_json().encode(),
            "recipe.toml": b"# none\n",
        }
        return write_bundle(self.folder / "bundles", draft, files, self.private)

    def install(self, root: Path, pipeline: str = "main", how: Windowing | None = None, **changes: Any) -> Slot:
        """Put a bundle into the pipeline's slot with a proof, as a deploy would."""
        path = self.bundle(how or windowing(), **changes)
        verified = open_verified(path, [self.public])
        store = SlotStore(root, pipeline)
        with store.lock(), store.staging() as folder:
            verified.extract_to(folder)
            (folder / PROOF).write_text(_proof(verified.digest, verified.manifest.version).model_dump_json())
            return store.commit(folder)

    def folder_of(self, how: Windowing | None = None, **changes: Any) -> Path:
        """Return a folder with an extracted bundle."""
        verified = open_verified(self.bundle(how or windowing(), **changes), [self.public])
        target = self.folder / f"extracted{self.count}"
        target.mkdir(parents=True)
        verified.extract_to(target)
        return target


def anomaly_task(how: Windowing) -> Task:
    return window_anomaly(how.length, len(how.names), None)


def _proof(digest: str, version: str) -> Proof:
    profile = DeviceProfile(
        name="test-pc",
        title="Test PC",
        variants=("fp32",),
        threads=1,
        budgets=Budgets(latency_p95_ms=5000, memory_mb=2000),
    )
    return Proof(
        digest=digest,
        name="pump",
        version=version,
        proved_at="2026-01-01T00:00:00.000Z",
        made_by="tests",
        profile=profile,
        machine="test",
        engine="onnxruntime",
        provider="CPUExecutionProvider",
        library_version="0",
        threads=1,
        frame="8x3",
        policy_origin="bundle",
        policy_version="0",
        variants=(VariantProof(variant="fp32", passed=True),),
        chosen="fp32",
    )

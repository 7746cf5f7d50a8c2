"""Small real models and signed bundles for tests: built with onnx, answered by ONNX Runtime."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edge_sft.bundle.keys import PrivateKey, PublicKey, generate, load_private, load_public
from edge_sft.bundle.manifest import Draft, VariantEntry
from edge_sft.bundle.writing import write_bundle
from edge_sft.policy import Policy
from edge_sft.preprocess import Preprocess
from edge_sft.profile import Budgets, DeviceProfile
from edge_sft.task import image_classification

LABELS = ("good", "scratch", "dent")


def graph(size: int = 16, labels: int = 3, *, seed: int = 0, work: int = 0, nan: bool = False, swell: int = 0) -> bytes:
    """Mean colour → linear → softmax. ``work`` adds that many useless 384² products, ``swell`` that many floats."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, 8, (3, labels)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["f", "c255"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["linear"]),
    ]
    constants: dict[str, Any] = {
        "c255": np.float32(255),
        "axes": np.array([1, 2], dtype=np.int64),
        "w": weights,
        "zero": np.float32(0),
    }
    logits = "linear"
    if work:
        constants["square"] = rng.normal(0, 0.01, (384, 384)).astype(np.float32)
        nodes.append(helper.make_node("ReduceMax", ["mean"], ["top"], keepdims=0))
        nodes.append(helper.make_node("Add", ["square", "top"], ["m0"]))
        nodes += [helper.make_node("MatMul", [f"m{i}", "square"], [f"m{i + 1}"]) for i in range(work)]
        nodes.append(helper.make_node("ReduceMean", [f"m{work}"], ["waste"], keepdims=0))
        nodes.append(helper.make_node("Mul", ["waste", "zero"], ["nothing"]))
        nodes.append(helper.make_node("Add", [logits, "nothing"], ["worked"]))
        logits = "worked"
    if swell:
        constants["wide"] = np.array([swell], dtype=np.int64)
        nodes.append(helper.make_node("ReduceMax", ["mean"], ["peak"], keepdims=0))
        nodes.append(helper.make_node("Expand", ["peak", "wide"], ["huge"]))
        nodes.append(helper.make_node("Exp", ["huge"], ["huger"]))
        nodes.append(helper.make_node("ReduceMean", ["huger"], ["swollen"], keepdims=0))
        nodes.append(helper.make_node("Mul", ["swollen", "zero"], ["flat"]))
        nodes.append(helper.make_node("Add", [logits, "flat"], ["grown"]))
        logits = "grown"
    if nan:
        nodes.append(helper.make_node("Div", ["zero", "zero"], ["hole"]))
        nodes.append(helper.make_node("Add", [logits, "hole"], ["spoilt"]))
        logits = "spoilt"
    nodes.append(helper.make_node("Softmax", [logits], ["probabilities"], axis=1))
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", labels])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def run(content: bytes, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["probabilities"], {"image": images})[0])


def pictures(count: int, size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (count, 1, 1, 3))
    return np.clip(colours + rng.integers(-20, 21, (count, size, size, 3)), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Signer:
    """A maker's keys."""

    private: PrivateKey
    public: PublicKey
    public_path: Path

    @classmethod
    def make(cls, directory: Path, name: str = "maker") -> Signer:
        pair = generate(directory, name)
        return cls(load_private(pair.private), load_public(pair.public), pair.public)


@dataclass(frozen=True)
class Plan:
    """A bundle to build; `graphs` by variant, `golden` overrides expected outputs, `extra` adds signed files."""

    graphs: dict[str, bytes]
    size: int = 16
    labels: tuple[str, ...] = LABELS
    ok: tuple[str, ...] = ("good",)
    name: str = "small"
    version: str = "1.0.0"
    policy: Policy | None = None
    golden: dict[str, np.ndarray] | None = None
    extra: dict[str, bytes] | None = None
    tolerance: float = 1e-3

    def but(self, **changes: Any) -> Plan:
        return replace(self, **changes)

    def policy_or_default(self) -> Policy:
        return self.policy or Policy(labels=self.labels, ok_labels=self.ok)

    def write(self, out: Path, signer: Signer) -> Path:
        images = pictures(8, self.size)
        golden: dict[str, Any] = {"in/image": images, "label": np.zeros(8, dtype=np.int64)}
        for variant, content in self.graphs.items():
            given = (self.golden or {}).get(variant)
            golden[f"out/{variant}/probabilities"] = run(content, images) if given is None else given
        archive = io.BytesIO()
        np.savez(archive, **golden)
        files: dict[str, bytes | Path] = {f"{variant}.onnx": content for variant, content in self.graphs.items()}
        files |= {"golden.npz": archive.getvalue(), "policy.json": self.policy_or_default().model_dump_json().encode()}
        files |= {"recipe.toml": b"# none\n", **(self.extra or {})}
        draft = Draft(
            name=self.name,
            version=self.version,
            created_at="2026-01-01T00:00:00.000Z",
            made_by="tests",
            task=image_classification(self.labels, self.ok, self.size, self.size),
            preprocess=Preprocess(height=self.size, width=self.size),
            variants=tuple(
                VariantEntry(variant=variant, file=f"{variant}.onnx", golden_tolerance=self.tolerance)
                for variant in self.graphs
            ),
            dataset_fingerprint="0" * 64,
            weights_sha256="0" * 64,
        )
        return write_bundle(out, draft, files, signer.private)


def plan(seed: int = 0, **changes: Any) -> Plan:
    """The ordinary bundle: one small fp32 variant."""
    return Plan(graphs={"fp32": graph(seed=seed)}, version=f"1.0.{seed}").but(**changes)


def profile(**changes: Any) -> DeviceProfile:
    """A generous profile of this machine."""
    base = DeviceProfile(
        name="test-pc",
        title="Test PC",
        variants=("int8-cpu", "fp32"),
        threads=1,
        budgets=Budgets(latency_p95_ms=5000, memory_mb=2000),
    )
    return base.model_copy(update=changes)

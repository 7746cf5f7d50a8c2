"""Signed bundles for the agent's benchmarks: random weights, real shapes.

`python benchmarks/agent_models.py lite0 OUT` (own process: needs torch) writes EfficientNet-Lite0 at 224 as fp32 and
int8-cpu ONNX; `small_graph` builds little convolutional nets with the onnx package alone.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))

LABELS = ("good", "defect")


def make_bundle(
    out: Path, keys: Path, files: dict[str, bytes], *, name: str, version: str, size: int, expected: Any = None
) -> Path:
    """Sign a bundle of the given variants; ``expected`` overrides the golden outputs (to make a proof fail)."""
    import onnxruntime

    from edge_sft.bundle.keys import generate, load_private, private_path
    from edge_sft.bundle.manifest import Draft, VariantEntry
    from edge_sft.bundle.writing import write_bundle
    from edge_sft.policy import Policy
    from edge_sft.preprocess import Preprocess
    from edge_sft.task import image_classification

    if not private_path(keys).exists():
        generate(keys)
    images = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)
    golden: dict[str, Any] = {"in/image": images, "label": np.zeros(8, np.int64)}
    for variant, content in files.items():
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        given = session.run(None, {"image": images})[0] if expected is None else expected
        golden[f"out/{variant}/probabilities"] = given
    archive = io.BytesIO()
    np.savez(archive, **golden)
    draft = Draft(
        name=name,
        version=version,
        created_at="2026-01-01T00:00:00.000Z",
        made_by="benchmarks/agent_models.py",
        task=image_classification(LABELS, ("good",), size, size),
        preprocess=Preprocess(height=size, width=size),
        variants=tuple(VariantEntry(variant=v, file=f"{v}.onnx", golden_tolerance=1e-2) for v in files),
        dataset_fingerprint="0" * 64,
        weights_sha256="0" * 64,
    )
    contents: dict[str, bytes | Path] = {f"{variant}.onnx": content for variant, content in files.items()}
    contents["golden.npz"] = archive.getvalue()
    contents["policy.json"] = Policy(labels=LABELS, ok_labels=("good",)).model_dump_json().encode()
    return write_bundle(out, draft, contents, load_private(private_path(keys)))


def small_graph(size: int, widths: tuple[int, ...], *, depthwise: bool, seed: int, nan: bool = False) -> bytes:
    """A stack of stride-2 convolutions (plain, or depthwise-separable) → mean → linear → softmax."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    nodes, weights = [helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT)], {}
    nodes.append(helper.make_node("Transpose", ["f"], ["t"], perm=[0, 3, 1, 2]))
    weights["scale"] = np.float32(128)
    nodes.append(helper.make_node("Div", ["t", "scale"], ["x0"]))
    channels, last = 3, "x0"

    def conv(source: str, target: str, into: int, out: int, kernel: int, stride: int, group: int) -> None:
        fan = into // group * kernel * kernel
        weights[f"w_{target}"] = rng.normal(0, (2 / fan) ** 0.5, (out, into // group, kernel, kernel)).astype("f4")
        pad = [kernel // 2] * 4
        nodes.append(
            helper.make_node(
                "Conv", [source, f"w_{target}"], [f"{target}_c"], group=group, pads=pad, strides=[stride] * 2
            )
        )
        nodes.append(helper.make_node("Relu", [f"{target}_c"], [target]))

    for index, width in enumerate(widths):
        if depthwise and index:
            conv(last, f"d{index}", channels, channels, 3, 2, channels)
            conv(f"d{index}", f"x{index + 1}", channels, width, 1, 1, 1)
        else:
            conv(last, f"x{index + 1}", channels, width, 3, 2, 1)
        channels, last = width, f"x{index + 1}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    weights["head"] = rng.normal(0, channels**-0.5, (channels, len(LABELS))).astype("f4")
    nodes.append(helper.make_node("MatMul", ["flat", "head"], ["logits"]))
    logits = "logits"
    if nan:
        weights["zero"] = np.float32(0)
        nodes.append(helper.make_node("Div", ["zero", "zero"], ["hole"]))
        nodes.append(helper.make_node("Add", ["logits", "hole"], ["spoilt"]))
        logits = "spoilt"
    nodes.append(helper.make_node("Softmax", [logits], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(LABELS)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def lite0(out: Path) -> dict[str, bytes]:
    """Return EfficientNet-Lite0 at 224, fp32 and int8-cpu, made in a process of its own."""
    subprocess.run([sys.executable, __file__, "lite0", str(out)], check=True)
    return {variant: (out / f"{variant}.onnx").read_bytes() for variant in ("fp32", "int8-cpu")}


def _write_lite0(out: Path) -> None:
    import torch
    from agent_pictures import real_pictures

    from edge_sft.export import quantize
    from edge_sft.export.onnx_from_checkpoint import export_fp32
    from edge_sft.export.ranges import observe, ranges
    from edge_sft.models.registry import build_classifier
    from edge_sft.progress import Silent
    from edge_sft.recipe import ModelSection
    from edge_sft.task import image_classification

    torch.manual_seed(0)
    module = torch.nn.Sequential(build_classifier(ModelSection(), len(LABELS)), torch.nn.Softmax(dim=1)).eval()
    out.mkdir(parents=True, exist_ok=True)
    fp32 = export_fp32(module, image_classification(LABELS, ("good",), 224, 224), out)
    prepared = quantize.prepare(fp32)
    blocks = [picture[None] for picture in real_pictures(32, 224, 224)]
    chosen = ranges(observe(prepared, blocks, len(blocks), Silent()), "minmax")
    quantize.save(quantize.quantized(prepared, chosen, "int8-cpu", ()), "int8-cpu", out)


if __name__ == "__main__":
    _write_lite0(Path(sys.argv[2]))

"""A directory down the whole road: trained, its checkpoint alone, all variants, NVIDIA's parser."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_sft import checkpoint as files
from edge_sft import strict_toml
from edge_sft.data.dataset import Dataset, Item
from edge_sft.export import quantize
from edge_sft.recipe import Recipe

from .hf_directories import save

pytest.importorskip("transformers", reason="transformers is not installed: the hf road is not proved")
pytest.importorskip("optimum.onnxruntime", reason="Optimum is not installed: its INT8 is not proved")
pytest.importorskip("torch", reason="torch is not installed: the hf road is not proved")

LABELS = ("dark", "light", "striped")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three kinds of 32-pixel pictures that any network can tell apart, 20 of each."""
    import cv2

    root, random, items = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for label in LABELS:
        (root / label).mkdir()
        for number in range(20):
            image = random.integers(*{"dark": (0, 90), "light": (160, 256), "striped": (90, 160)}[label], (32, 32, 3))
            if label == "striped":
                image[::4] = 255
            path = root / label / f"{number:02d}.png"
            cv2.imwrite(str(path), image.astype(np.uint8))
            split: Any = ("train", "train", "val", "train", "test")[number % 5]
            items.append(
                Item(f"{label}/{path.name}", path, label, hashlib.sha256(path.read_bytes()).hexdigest(), split)
            )
    return Dataset(root, LABELS, tuple(sorted(items, key=lambda item: item.id)))


@pytest.fixture(scope="module")
def trained(pictures: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose directory is gone."""
    from edge_sft.training.fit import fit

    folder = tmp_path_factory.mktemp("models") / "tiny-dinov2"
    folder.mkdir()
    save("dinov2", folder)
    text = (
        'name = "tiny"\n[task]\nlabels = ["dark", "light", "striped"]\nok = ["light"]\n'
        f'[data]\npath = "{pictures.root}"\n[image]\nsize = 32\n[model]\nbackbone = "hf:{folder}"\n'
        "[train]\nsteps = 6\nbatch_size = 6\n"
    )
    out = tmp_path_factory.mktemp("checkpoint")
    fit(strict_toml.loads(text, Recipe, source="test"), pictures, out, recipe_text=text)
    shutil.rmtree(folder)
    return out


def test_the_checkpoint_needs_no_directory_and_names_no_path(trained: Path, pictures: Dataset) -> None:
    from edge_sft.models.registry import load_classifier

    meta = files.read_meta(trained)
    assert meta.backbone == "hf:tiny-dinov2"
    assert len(meta.training["weights_sha256"]) == 64
    assert meta.backbone_config is not None
    assert meta.backbone_config["config"]["model_type"] == "dinov2"
    assert meta.metrics["val"]["balanced_accuracy"] > 0.8
    assert load_classifier(trained).head.out_features == 3


def test_every_variant_passes_and_int8_spares_what_is_no_product(
    trained: Path, pictures: Dataset, tmp_path: Path
) -> None:
    import onnx

    from edge_sft.export.variants import export_variants

    made = export_variants(trained, pictures, tmp_path, calibration_pictures=12)
    assert {gate.variant: gate.passed for gate in made.gates} == dict.fromkeys(
        ("fp32", "fp16", "int8-trt", "int8-cpu"), True
    )
    for variant in ("int8-trt", "int8-cpu"):
        graph = onnx.load(made.files[variant]).graph  # type: ignore[index]
        rounded = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        fed = {node.op_type for node in graph.node if rounded & set(node.input)}
        assert "MatMul" in fed
        assert not fed & {"LayerNormalization", "Softmax", "Gelu"}, variant
        stored = {tensor.data_type for tensor in graph.initializer}
        assert onnx.TensorProto.INT8 in stored
    _nvidia_takes(made.files["fp32"], made.files["fp16"], made.files["int8-trt"])


def _nvidia_takes(*variants: Path) -> None:
    try:
        import tensorrt_rtx as rtx
    except ImportError:
        return  # tests/export/test_nvidia.py says what is not proved then
    for file in variants:
        builder = rtx.Builder(rtx.Logger(rtx.Logger.ERROR))
        network = builder.create_network(0)
        parser = rtx.OnnxParser(network, rtx.Logger(rtx.Logger.ERROR))
        assert parser.parse(file.read_bytes()), (file.name, str(parser.get_error(0)))
        del parser  # only now: the network uses the parser's memory


def test_resnet_gets_float_biases_back(tmp_path: Path) -> None:
    """Optimum rounds every convolution's bias to int32, which NVIDIA's parsers refuse."""
    import onnx
    import torch

    from edge_sft.export import onnx_from_checkpoint, optimum_int8, ranges
    from edge_sft.models.registry import build_classifier
    from edge_sft.progress import Silent
    from edge_sft.recipe import ModelSection
    from edge_sft.task import image_classification

    save("resnet", tmp_path / "model")
    classifier = build_classifier(ModelSection(backbone=f"hf:{tmp_path / 'model'}"), 2).eval()
    whole = torch.nn.Sequential(classifier, torch.nn.Softmax(dim=1)).eval()
    fp32 = onnx_from_checkpoint.export_fp32(whole, image_classification(("a", "b"), (), 32, 32), tmp_path)
    prepared = quantize.prepare(fp32)
    noise = np.random.default_rng(0).integers(0, 256, (4, 1, 32, 32, 3)).astype(np.uint8)
    seen = ranges.ranges(ranges.observe(prepared, noise, 4, Silent()), "minmax")
    made = quantize.save(optimum_int8.quantized(prepared, seen, "int8-trt", ()), "int8-trt", tmp_path)
    assert onnx.TensorProto.INT32 not in {tensor.data_type for tensor in onnx.load(made).graph.initializer}
    _nvidia_takes(made)

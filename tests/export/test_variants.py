from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_sft import checkpoint as files_of
from edge_sft.bundle import keys, reading
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.dataset import Dataset
from edge_sft.errors import BugError, DataError
from edge_sft.export import asking, gating, half, int8, pictures, quantize, ranges
from edge_sft.export.bundling import bundle_from_checkpoint
from edge_sft.export.gating import Reference
from edge_sft.export.variants import ExportResult, export_module, read_export
from edge_sft.progress import Silent

if TYPE_CHECKING:
    from torch import nn


def test_all_four_variants_pass_on_a_healthy_model(exported: ExportResult) -> None:
    assert set(exported.files) == {"fp32", "fp16", "int8-trt", "int8-cpu"}
    assert all(gate.passed for gate in exported.gates)
    assert {gate.pictures for gate in exported.gates} == {48}
    sizes = {variant: file.stat().st_size for variant, file in exported.files.items()}
    assert sizes["fp16"] < sizes["fp32"]


def test_fp16_computes_its_probabilities_in_float32(exported: ExportResult) -> None:
    import onnx
    import onnxruntime as ort

    model = onnx.load(exported.files["fp16"])
    types = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    types |= {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    nodes = model.graph.node
    last = max(place for place, node in enumerate(nodes) if node.op_type in ("Conv", "Gemm", "MatMul"))
    assert types[nodes[last].output[0]] == onnx.TensorProto.FLOAT16
    assert [node.op_type for node in nodes[last + 1 :]] == ["Cast", "Div", "Softmax"]  # nothing narrows them again
    assert all(types[node.output[0]] == onnx.TensorProto.FLOAT for node in nodes[last + 1 :])
    shape = [4, *(axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[1:])]
    session = ort.InferenceSession(str(exported.files["fp16"]), providers=["CPUExecutionProvider"])
    said = session.run(None, {"image": np.random.default_rng(0).integers(0, 256, shape, np.uint8)})[0]
    assert said.dtype == np.float32
    assert (said != said.astype(np.float16)).any()  # half precision has no such numbers
    np.testing.assert_allclose(said.sum(axis=1), 1.0, atol=1e-6)


def test_int8_really_computes_in_int8(exported: ExportResult) -> None:
    import onnx

    for variant, unsigned in (("int8-trt", False), ("int8-cpu", True)):
        model = onnx.load(exported.files[variant])  # type: ignore[index]
        types = {tensor.data_type for tensor in model.graph.initializer if tensor.name.endswith("_zero_point")}
        assert onnx.TensorProto.INT8 in types
        assert (onnx.TensorProto.UINT8 in types) == unsigned
        assert (onnx.TensorProto.INT32 in types) == unsigned  # biases; NVIDIA's parsers want them float
        weights = [tensor for tensor in model.graph.initializer if tensor.name.endswith("_quantized")]
        largest = max(np.abs(onnx.numpy_helper.to_array(w).astype(int)).max() for w in weights if len(w.dims) > 1)
        assert largest <= (64 if unsigned else 127)


def test_an_export_is_read_back_and_damage_is_noticed(exported: ExportResult, tmp_path: Path) -> None:
    copy = tmp_path / "export"
    shutil.copytree(exported.golden.parent, copy)
    again = read_export(copy)
    assert again.gates == exported.gates
    assert {name: path.name for name, path in again.files.items()} == {n: p.name for n, p in exported.files.items()}
    (copy / "fp16.onnx").write_bytes(b"other")
    with pytest.raises(DataError, match="changed since"):
        read_export(copy)
    (copy / "gates.json").unlink()
    with pytest.raises(DataError, match="no finished export"):
        read_export(copy)


def test_the_same_module_gives_the_same_files(
    tiny: nn.Module, meta: CheckpointMeta, dataset: Dataset, exported: ExportResult, tmp_path: Path
) -> None:
    again = export(tiny, meta, dataset, tmp_path)
    for variant, file in exported.files.items():
        assert file.read_bytes() == again.files[variant].read_bytes(), variant
    assert exported.golden.read_bytes() == again.golden.read_bytes()


def export(tiny: nn.Module, meta: CheckpointMeta, dataset: Dataset, out: Path) -> ExportResult:
    return export_module(
        tiny,
        meta,
        dataset,
        out,
        variants=("fp32", "fp16", "int8-trt", "int8-cpu"),
        calibration_pictures=32,
        tolerance_points=0.5,
        progress=Silent(),
    )


def test_a_variant_that_cannot_be_made_or_fails_is_left_out_and_named(
    tiny: nn.Module, meta: CheckpointMeta, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Path:
        raise BugError("fp16", "has no half", "")

    real = gating.infer

    def spoilt(model: Path, *args: object, **kwargs: object) -> object:
        answers = real(model, *args, **kwargs)  # type: ignore[arg-type]
        return np.roll(answers, 1, axis=1) if model.name == "int8-cpu.onnx" else answers

    monkeypatch.setattr(half, "export_fp16", refuse)
    monkeypatch.setattr(gating, "infer", spoilt)
    result = export(tiny, meta, dataset, tmp_path)
    gates = {gate.variant: gate for gate in result.gates}
    assert set(result.files) == {"fp32", "int8-trt"}
    assert gates["fp16"].note == "could not be made: has no half"
    assert gates["int8-cpu"].right_to_wrong > 20
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "fp32.onnx", "gates.json", "golden.npz", "int8-trt.onnx"
    ]  # fmt: skip


def test_fp32_that_is_not_the_checkpoint_stops_everything(
    tiny: nn.Module, meta: CheckpointMeta, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = gating.infer
    monkeypatch.setattr(gating, "infer", lambda *a, **k: real(*a, **k) + np.float32(1e-3))
    with pytest.raises(BugError, match="does not equal the checkpoint"):
        export(tiny, meta, dataset, tmp_path)
    assert not (tmp_path / "gates.json").exists()


def test_other_pictures_than_those_of_the_training_are_refused(
    meta: CheckpointMeta, dataset: Dataset, tmp_path: Path
) -> None:
    fewer = dataclasses.replace(dataset, items=dataset.items[1:])
    with pytest.raises(DataError, match="trained on other pictures"):
        asking.require_same_data(meta, fewer, tmp_path, parts="pictures, labels", source="pictures")


def test_without_validation_pictures_nothing_can_be_proved(meta: CheckpointMeta, dataset: Dataset) -> None:
    none = dataclasses.replace(dataset, items=dataset.split("train"))
    with pytest.raises(DataError, match="no validation pictures"):
        pictures.validation(none, meta.task, meta.preprocess, Silent())


def test_pictures_are_chosen_evenly_and_never_from_test(dataset: Dataset, meta: CheckpointMeta) -> None:
    shown = pictures.for_ranges(dataset, meta.task, meta.preprocess, 70, Silent())
    splits = {item.id: item.split for item in dataset.items}
    assert [splits[name] for name in shown.ids].count("train") == 48
    assert {splits[name] for name in shown.ids} == {"train", "val"}
    few = pictures.choose(dataset.split("train"), 6)
    assert [item.label for item in few] == ["good", "good", "scratch", "scratch", "stain", "stain"]


def test_the_layer_that_suffers_is_found_and_left_float(
    exported: ExportResult, dataset: Dataset, meta: CheckpointMeta, tmp_path: Path
) -> None:
    fp32 = exported.files["fp32"]
    shown = pictures.validation(dataset, meta.task, meta.preprocess, Silent())
    answers = gating.infer(fp32, meta.task, shown)
    reference = Reference(meta.task, meta.policy, shown, answers, 0.5)
    prepared = quantize.prepare(fp32)
    source = int8.Source(prepared, ranges.observe(prepared, shown.batches(1), len(shown), Silent()))
    layers = quantize.layers(prepared)
    chosen = ranges.ranges(source.seen, "minmax")
    victim = next(node for node in prepared.graph.node if node.name == layers[1])
    chosen[victim.input[0]] = (-1e-3, 1e-3)  # as bad as ranges get: everything this layer sees is cut off
    ranked = int8._by_sensitivity("int8-trt", source, chosen, reference, Silent())
    assert sorted(name for group in ranked for name in group) == sorted(layers)
    assert layers[1] in ranked[0]


def test_the_bundle_carries_all_of_it(exported: ExportResult, meta: CheckpointMeta, tmp_path: Path) -> None:
    from datetime import datetime, timezone

    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    (checkpoint / "recipe.toml").write_text("name = 'tiny'\n")
    digest = files_of.sha256_of(checkpoint / "model.safetensors")
    files_of.write_meta(checkpoint, meta.model_copy(update={"weights_sha256": digest, "metrics": {}}))
    private = keys.load_private(keys.generate(tmp_path / "keys").private)
    now = datetime(2026, 1, 31, tzinfo=timezone.utc)
    made = [
        bundle_from_checkpoint(checkpoint, source, tmp_path / out, private, "<html>report</html>", now=now)
        for source, out in ((exported, "one"), (exported.golden.parent, "two"))
    ]
    assert made[0].read_bytes() == made[1].read_bytes()
    bundle = reading.open_verified(made[0], [private.public])
    assert {entry.variant for entry in bundle.manifest.variants} == set(exported.files)
    assert {entry.name for entry in bundle.manifest.files} == {
        "fp32.onnx", "fp16.onnx", "int8-trt.onnx", "int8-cpu.onnx", "golden.npz", "policy.json", "recipe.toml",
        "report.html",
    }  # fmt: skip
    assert bundle.manifest.gates == exported.gates
    assert bundle.read("report.html") == b"<html>report</html>"
    assert bundle.manifest.created_at == "2026-01-31T00:00:00.000Z"

"""NVIDIA's published operator tables as a gate: what they list passes in silence, what they do not is said."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edge_sft.bundle.manifest import GateResult
from edge_sft.export import gating, operators
from edge_sft.export.variants import ExportResult

onnx = pytest.importorskip("onnx", reason="onnx is not installed: the operators of a variant are not looked at")
FLOAT, HALF, BYTE, LONG = (
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.UINT8, onnx.TensorProto.INT64,
)  # fmt: skip


def graph(
    nodes: list[object], kind: int = FLOAT, constants: dict[str, list[int]] | None = None, rank: int = 3
) -> object:
    """A graph from x to y."""
    shape = [2, 3, 8, 8][:rank]
    values = [onnx.helper.make_tensor_value_info("x", kind, shape)]
    result = [onnx.helper.make_tensor_value_info("y", FLOAT, None)]
    stored = [onnx.helper.make_tensor(name, LONG, [len(data)], data) for name, data in (constants or {}).items()]
    opsets = [onnx.helper.make_opsetid("", 20)]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", values, result, stored), opset_imports=opsets)


def node(operator: str, *inputs: str, **attributes: object) -> Any:
    outputs = ["y", "places"] if operator == "TopK" else ["y"]
    return onnx.helper.make_node(operator, list(inputs), outputs, **attributes)


def said(model: object) -> list[str]:
    return [str(one) for one in operators.complaints(model)]  # type: ignore[arg-type]


def test_the_table_names_its_source_and_only_grows_with_the_releases() -> None:
    table = operators.tables()
    assert "onnx-tensorrt" in table["source"]
    assert "Apache-2.0" in table["licence"]
    releases = list(table["releases"])
    assert releases == ["10.1", "10.14", "11.1"]
    assert all(len(commit) == 40 for commit in table["releases"].values())
    for name, types in table["operators"].items():
        for one, later in pairwise(releases):
            assert set(types.get(one, "").split()) <= set(types.get(later, "").split()), name
    assert table["operators"]["Conv"]["10.1"] == "FP32 FP16 BF16"
    assert "Det" not in table["operators"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (graph([node("Det", "x")]), ["Det (TensorRT 10.1, 10.14, 11.1)"]),
        (graph([node("STFT", "x", "f")], constants={"f": [1]}), ["STFT (TensorRT 10.1)"]),
        (graph([node("Sin", "x")], LONG), ["Sin of INT64 (TensorRT 10.1, 10.14, 11.1)"]),
        (graph([node("Transpose", "x", perm=[0, 2, 1])], BYTE), ["Transpose of UINT8", "Transpose fed with UINT8"]),
        (graph([node("AveragePool", "x", kernel_shape=[3])]), ["AveragePool in a form it restricts"]),
        (graph([node("TopK", "x", "k")], constants={"k": [5000]}), ["TopK in a form it restricts"]),
        (graph([node("ReduceMax", "x", "x")]), ["ReduceMax in a form it restricts"]),
    ],
    ids=["nowhere", "not yet", "another type", "bytes", "one axis", "too many", "axes that are computed"],
)
def test_what_a_table_does_not_list_is_named(model: object, words: list[str]) -> None:
    found = said(model)
    assert len(found) == len(words)
    assert all(line.startswith(word) for line, word in zip(found, words, strict=True))


@pytest.mark.parametrize(
    "model",
    [
        graph([node("Cast", "x", to=FLOAT)], BYTE),
        graph([node("AveragePool", "x", kernel_shape=[3, 3])], rank=4),
        graph([node("AveragePool", "x", kernel_shape=[3, 3])], HALF, rank=4),
        graph([node("Unsqueeze", "x", "k")], constants={"k": [0]}),
        graph([node("TopK", "x", "k")], constants={"k": [5]}),
    ],
    ids=["bytes into a cast", "two axes", "half precision", "constant axes", "few"],
)
def test_what_the_tables_list_passes_in_silence(model: object) -> None:
    assert said(model) == []


def test_the_variants_of_a_network_are_listed_and_their_gates_say_nothing(exported: ExportResult) -> None:
    for gate in exported.gates:
        assert "NVIDIA" not in gate.note
        if gate.variant in operators.FOR_NVIDIA:
            assert operators.complaints(onnx.load(exported.files[gate.variant])) == []


def gate_of(variant: str, model: object, tmp_path: Path) -> tuple[GateResult, Path]:
    file = tmp_path / f"{variant}.onnx"
    onnx.save(model, file)
    gate = gating.not_made(variant, 10, 0.5, "").model_copy(update={"passed": True, "note": "was fine"})  # type: ignore[arg-type]
    return operators.noted(gate, file), file


@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_a_variant_that_runs_elsewhere_too_only_says_it(variant: str, tmp_path: Path) -> None:
    gate, file = gate_of(variant, graph([node("Det", "x")]), tmp_path)
    assert gate.passed
    assert gate.note == (
        "not among the operators that NVIDIA's parser lists: Det (TensorRT 10.1, 10.14, 11.1); was fine"
    )
    assert file.exists()


def test_int8_for_nvidia_that_no_release_lists_is_left_out(tmp_path: Path) -> None:
    gate, file = gate_of("int8-trt", graph([node("Det", "x")]), tmp_path)
    assert not gate.passed
    assert not file.exists()
    gate, file = gate_of("int8-trt", graph([node("STFT", "x", "f")], constants={"f": [1]}), tmp_path)
    assert gate.passed  # a newer TensorRT takes it
    assert "STFT (TensorRT 10.1)" in gate.note


def test_the_other_flavour_of_int8_is_nothing_to_nvidia(tmp_path: Path) -> None:
    gate, _ = gate_of("int8-cpu", graph([node("Det", "x")]), tmp_path)
    assert gate.note == "was fine"


def test_large_constants_are_found_by_size() -> None:
    model = graph([node("Unsqueeze", "x", "k")], constants={"k": [0]})
    assert operators.large_constants(model) == {}
    assert operators.large_constants(model, 1) == {"k": 8}  # type: ignore[arg-type]

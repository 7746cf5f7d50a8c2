from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_sft.errors import BugError, DataError
from edge_sft.export import asking, half, quantize, ranges
from edge_sft.export.sensors import front, windows
from edge_sft.export.variants import ExportResult, read_export
from edge_sft.progress import Silent


def test_remaining_life_and_faults_pass_in_every_variant(exported: dict[str, ExportResult]) -> None:
    for name in ("life", "faults"):
        assert {gate.variant: gate.note for gate in exported[name].gates if not gate.passed} == {}
        assert set(exported[name].files) == {"fp32", "fp16", "int8-trt", "int8-cpu"}
    gate = exported["life"].gates[0]
    assert gate.measure == "RMSE in hours"
    assert gate.before == pytest.approx(gate.after, rel=1e-5)
    assert exported["faults"].gates[0].balanced_accuracy is not None


def test_a_memory_is_searched_in_half_precision_and_has_no_weights_to_quantize(
    exported: dict[str, ExportResult],
) -> None:
    import onnx

    result = exported["anomaly"]
    assert set(result.files) == {"fp32", "fp16"}
    assert result.gates[0].measure == "AUROC"
    assert result.gates[1].max_score_difference < 1e-3  # neighbours equally near may be taken for each other, no more
    why = "it has no weights: what it multiplies with is the machine's memory, made and measured only there"
    assert {gate.note for gate in result.gates[2:]} == {f"could not be made: {why}"}
    model = onnx.load(result.files["fp16"])
    assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {1}
    casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    half = {name for name, source in casts.items() if source in {n for node in model.graph.node for n in node.output}}
    searched = [node for node in model.graph.node if node.op_type == "MatMul" and half & set(node.input)]
    assert searched


def test_only_the_search_of_a_memory_is_narrowed(exported: dict[str, ExportResult]) -> None:
    prepared = quantize.prepare(exported["anomaly"].files["fp32"])
    found = front.searching(prepared)
    nodes = {node.name: node for node in prepared.graph.node}
    assert {"MatMul", "Transpose"} <= {nodes[name].op_type for name in found}
    assert not {"Clip", "Sqrt", "TopK"} & {nodes[name].op_type for name in found}
    assert front.memories(prepared) == {"bank"}


def test_a_guard_against_a_dead_channel_stays_float32_with_what_it_guards() -> None:
    from onnx import TensorProto, helper

    said = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "before"),
        helper.make_node("Clip", ["a", "tiny"], ["b"], "guard"),
        helper.make_node("Log", ["b"], ["c"], "log"),
        helper.make_node("Mul", ["c", "half"], ["y"], "behind"),
    ]
    constants = [
        helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("tiny", 1e-12), ("half", 0.5))
    ]
    model = helper.make_model(helper.make_graph(nodes, "guard", said[:1], said[1:], constants))
    assert front.guarded(model) == {"guard", "log"}


def test_half_precision_begins_after_the_raw_units(exported: dict[str, ExportResult]) -> None:
    import onnx

    nodes = onnx.load(exported["life"].files["fp16"]).graph.node
    assert [node.op_type for node in nodes if "window" in node.input] == ["Sub"]  # no cast before the mean is taken off
    fp16 = next(gate for gate in exported["life"].gates if gate.variant == "fp16")
    assert fp16.max_score_difference < 2e-3  # 9,000 rpm ± 3 in half precision: 1.9e-2
    assert "operators stay float32" in fp16.note


def test_int8_leaves_masks_and_averages_alone(exported: dict[str, ExportResult]) -> None:
    import onnx

    for variant in ("int8-trt", "int8-cpu"):
        model = onnx.load(exported["faults"].files[variant])  # type: ignore[index]
        producers = {name: node.op_type for node in model.graph.node for name in node.output}
        fed = {node.op_type: [producers.get(name, "") for name in node.input] for node in model.graph.node}
        assert "DequantizeLinear" in fed["Conv"]
        assert "DequantizeLinear" not in fed["Div"]


def test_golden_samples_are_whole_and_are_what_each_variant_says(exported: dict[str, ExportResult]) -> None:
    from edge_sft.export import running
    from edge_sft.slots.golden import load

    golden = load(exported["anomaly"].golden.parent)
    assert golden.count <= 16
    with np.load(exported["anomaly"].golden) as archive:
        local = {name: archive[f"local/{name}"] for name in ("mean", "std", "bank")}
    said = running.outputs(exported["anomaly"].files["fp32"], [{**golden.inputs, **local}])
    assert np.abs(said["score"] - golden.outputs["fp32"]["score"]).max() < 1e-5
    assert golden.inputs["valid"].mean(axis=(1, 2)).min() < 0.5  # a window that has just begun


def test_the_same_module_gives_the_same_files(life: Any, exported: dict[str, ExportResult], tmp_path: Path) -> None:
    again = life.export(tmp_path, variants=("fp32", "int8-cpu"))
    for variant in ("fp32", "int8-cpu"):
        assert again.files[variant].read_bytes() == exported["life"].files[variant].read_bytes()
    assert read_export(tmp_path).gates == again.gates


def test_a_variant_that_cannot_be_made_is_left_out_and_named(
    life: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Path:
        raise BugError("fp16", "has no half", "")

    monkeypatch.setattr(half, "save", refuse)
    result = life.export(tmp_path, variants=("fp32", "fp16"))
    assert set(result.files) == {"fp32"}
    assert result.gates[1].note == "could not be made: has no half"


def test_where_everything_is_large_there_is_no_front_to_narrow(exported: dict[str, ExportResult], life: Any) -> None:
    prepared = quantize.prepare(exported["life"].files["fp32"])
    shown = windows.for_ranges(life.dataset, life.meta.windowing, {}, 8, Silent())
    seen = ranges.observe(prepared, shown.blocks(1), len(shown), Silent())
    sizes = [len(names) for names in front.fronts(prepared, seen)]
    assert sizes == sorted(sizes)
    assert sizes[0] > 0
    for item in seen.values():
        item.high = 1e5
    assert list(front.fronts(prepared, seen)) == []


def test_windows_are_shared_out_evenly_and_never_come_from_test(life: Any) -> None:
    assert windows.shares([5, 100, 100], 105) == [5, 50, 50]
    assert windows.shares([2, 2], 100) == [2, 2]
    shown = windows.validation(life.dataset, life.meta.windowing, {}, Silent())
    splits = {run.id: run.split for run in life.dataset.runs}
    assert {splits[name] for name in shown.run} == {"val"}
    lives = {run.id: run.rul[-1] for run in life.dataset.split("val") if run.rul is not None}
    last = dict(zip(shown.run, shown.rul, strict=True))
    assert last == lives  # each run's end is among them


def test_other_rows_than_those_of_the_training_are_refused(life: Any, tmp_path: Path) -> None:
    fewer = dataclasses.replace(life.dataset, runs=life.dataset.runs[1:])
    with pytest.raises(DataError, match="trained on other rows"):
        asking.require_same_data(life.meta, fewer, tmp_path, parts="rows, groups", source="files")


def test_without_validation_runs_or_truth_nothing_can_be_proved(life: Any, faults: Any, tmp_path: Path) -> None:
    none = dataclasses.replace(life, dataset=dataclasses.replace(life.dataset, runs=life.dataset.split("train")))
    with pytest.raises(DataError, match="no validation runs"):
        none.export(tmp_path)
    unknown = tuple(dataclasses.replace(run, labels=None, rul=None) for run in life.dataset.runs)
    for model, words in ((life, "remaining life is known"), (faults, "label is known")):
        with pytest.raises(DataError, match=words):
            dataclasses.replace(model, dataset=dataclasses.replace(model.dataset, runs=unknown)).export(tmp_path)

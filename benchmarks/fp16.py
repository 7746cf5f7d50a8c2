"""How far an honest FP16 engine may be from a bundle's golden outputs: FP16 arithmetic, repeated on the processor.

    python benchmarks/fp16.py BUNDLE... [--results]

ONNX Runtime's CPU provider computes an FP16 graph in FP32 and rounds only its weights, and so the golden outputs of
`fp16` are made. An FP16 engine rounds what each layer hands on, too, and may add products up in FP16. Here both are
done: every node runs by itself, so that its result is rounded to FP16, and every convolution's sum is taken in steps of
16 channels, as tensor cores take it, with a rounding after each. With --results writes benchmarks/results/fp16.md.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from edge_sft.bundle.golden_scale import output_scale

Arrays = dict[str, NDArray[Any]]
RESULT = Path(__file__).resolve().parent / "results" / "fp16.md"
_STEP = 16  # channels that one instruction of a tensor core adds up before it rounds


def rounding(content: bytes) -> Callable[[Arrays], Arrays]:
    """Return what runs an FP16 graph with FP16 arithmetic."""
    model = shape_inference.infer_shapes(_in_steps(onnx.load_from_string(content)))
    graph = model.graph
    kinds = {each.name: each.type.tensor_type.elem_type for each in (*graph.value_info, *graph.input, *graph.output)}
    constants = {each.name: each for each in graph.initializer}
    steps = [_step(node, model, kinds, constants) for node in graph.node]
    outputs = [each.name for each in graph.output]

    def run(inputs: Arrays) -> Arrays:
        values = {name: numpy_helper.to_array(each) for name, each in constants.items()} | inputs
        for session, taken, given in steps:
            values |= dict(zip(given, session.run(given, {each: values[each] for each in taken}), strict=True))
        return {name: values[name] for name in outputs}

    return run


def _step(node: Any, model: Any, kinds: dict[str, int], constants: dict[str, Any]) -> tuple[Any, list[str], list[str]]:
    """Return a session of one node, its inputs that are no constants, and its outputs."""
    names = [name for name in dict.fromkeys(node.input) if name]
    taken, given = [name for name in names if name not in constants], [name for name in node.output if name]
    info = helper.make_tensor_value_info
    inside = helper.make_graph(
        [node],
        "one node",
        [info(name, kinds[name], None) for name in taken],
        [info(name, kinds[name], None) for name in given],
        [constants[name] for name in names if name in constants],
    )
    made = helper.make_model(inside, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session, taken, given


def _in_steps(model: Any) -> Any:
    """Split every FP16 convolution over its channels into a sum of small ones, which is rounded after each."""
    graph = model.graph
    weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
        grouped = any(each.name == "group" and each.i > 1 for each in node.attribute)
        if weight is None or grouped or weight.dtype != np.float16 or weight.shape[1] <= _STEP:
            nodes.append(node)
            continue
        total = ""
        for at in range(0, weight.shape[1], _STEP):
            name, part = f"{node.output[0]}_{at}", weight[:, at : at + _STEP]
            bounds = {"from": [at], "to": [at + part.shape[1]], "axis": [1]}
            made = [numpy_helper.from_array(np.array(value), f"{name}_{key}") for key, value in bounds.items()]
            graph.initializer.extend([*made, numpy_helper.from_array(np.ascontiguousarray(part), f"{name}_w")])
            nodes.append(helper.make_node("Slice", [node.input[0], *(each.name for each in made)], [f"{name}_x"]))
            small = helper.make_node("Conv", [f"{name}_x", f"{name}_w", *([] if at else node.input[2:])], [f"{name}_y"])
            small.attribute.extend(node.attribute)
            nodes.append(small)
            if total:
                nodes.append(helper.make_node("Add", [total, f"{name}_y"], [f"{name}_sum"]))
            total = f"{name}_sum" if total else f"{name}_y"
        nodes.append(helper.make_node("Identity", [total], [node.output[0]]))
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def row(path: Path) -> str:
    """Return a bundle's line of the table; empty where it has no fp16."""
    with zipfile.ZipFile(path) as bundle:
        manifest = json.loads(bundle.read("manifest.json"))
        entry = next((each for each in manifest["variants"] if each["variant"] == "fp16"), None)
        if entry is None:
            return ""
        golden = np.load(io.BytesIO(bundle.read("golden.npz")))
        content = bundle.read(entry["file"])
    names = [each["name"] for each in manifest["task"]["inputs"]]
    want = {key.rpartition("/")[2]: golden[key] for key in golden.files if key.startswith("out/fp16/")}
    full = {name: golden[f"out/fp32/{name}"] for name in want}
    count = len(next(iter(want.values())))
    run, answers = rounding(content), []
    for at in range(count):
        given = {name: golden[f"in/{name}"][at : at + 1] for name in names if f"in/{name}" in golden.files}
        local = {name: golden[f"local/{name}"] for name in names if f"local/{name}" in golden.files}
        answers.append(run(given | local))
    weights = _off(want, full)
    honest = _off(want, {name: np.concatenate([each[name] for each in answers]) for name in want})
    allowed = entry["golden_tolerance"]
    return f"| {path.stem} | {weights:.2g} | {honest:.2g} | {allowed:.2g} | {allowed / honest:.1f} |"


def _off(want: Arrays, got: Arrays) -> float:
    return max(
        float(np.max(np.abs(got[name] - want[name].astype(np.float64)))) / output_scale(name, want[name])
        for name in want
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--results", action="store_true")
    asked = parser.parse_args()
    lines = ["| bundle | rounded weights | FP16 throughout | allowed | room |", "|---|---|---|---|---|"]
    print("\n".join(lines))
    for path in asked.bundles:
        if line := row(path):
            print(line, flush=True)
            lines.append(line)
    if asked.results:
        RESULT.write_text("# FP16 arithmetic against the golden outputs\n\n" + _SAID + "\n".join(lines) + "\n")


_SAID = """Made by `benchmarks/fp16.py`: the largest difference of any output on the golden samples, in shares of its
scale, from the golden outputs of `fp16`. *Rounded weights*: fp32's golden outputs, which differ by the weights'
rounding alone. *FP16 throughout*: every result rounded, sums in steps of 16. *Allowed*: what the bundle
states. *Room*: allowed divided by FP16 throughout. Emulated on a processor; no GPU has run it.

"""

if __name__ == "__main__":
    main()

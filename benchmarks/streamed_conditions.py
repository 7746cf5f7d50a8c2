"""The condition lookup of streamed.py: `ArgMin` of every variant's graph against numpy's nearest centre."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sensor_bundles import Made
from streamed_line import Run

from edge_sft.preprocess import Windowing
from edge_sft.preprocess.cutting import cut
from edge_sft.preprocess.gridding import grid_run


@dataclass(frozen=True)
class Conditions:
    """What the graph's lookup said. ``margin`` is how much nearer the nearest centre was, at least (weighted units)."""

    rows: int
    engines: int
    wrong: dict[str, int]
    margin: float


def conditions(one: Made, slot: Path, windowing: Windowing, runs: Sequence[Run]) -> Conditions | None:
    """Compare every variant's `ArgMin` with numpy's nearest centre, on every grid row; None without a lookup."""
    import onnx
    import onnxruntime
    from safetensors.numpy import load_file

    weights = load_file(one.checkpoint / "model.safetensors")
    name = next((name for name in weights if name.endswith("centres") and weights[name].size), "")
    if not name:
        return None
    prefix = name.removesuffix("centres")
    centres, weight = weights[name].astype(np.float64), weights[prefix + "weight"].astype(np.float64)
    meta = json.loads((one.checkpoint / "checkpoint.json").read_text())
    columns = _lists_of_conditions(meta)
    windows, valids, masks = [], [], []
    for run in runs:
        grid = grid_run(windowing, run.time, run.values)
        ends = np.arange(len(grid) - 1, -1, -windowing.length)[::-1]  # windows side by side: every row once
        values, valid = cut(windowing, grid, ends)
        steps = np.arange(1 - windowing.length, 1) + ends[:, None]
        windows.append(values)
        valids.append(valid)
        masks.append(steps >= 0)
    window, valid, mask = np.concatenate(windows), np.concatenate(valids), np.concatenate(masks)
    points = (window[..., columns].astype(np.float64) * weight)[mask]
    far = ((points[:, None, :] - centres[None] * weight) ** 2).sum(axis=2)
    nearest = far.argmin(axis=1)
    two = np.sqrt(np.sort(far, axis=1)[:, :2])
    wrong: dict[str, int] = {}
    for file in sorted(slot.glob("*.onnx")):
        model = onnx.load(file)
        lookups = [node.output[0] for node in model.graph.node if node.op_type == "ArgMin"]
        model.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.INT64, None) for n in lookups)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        run_ = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run
        wrong[file.stem] = 0
        for start in range(0, len(window), 64):
            part = slice(start, start + 64)
            found = run_(lookups, {"window": window[part], "valid": valid[part]})
            inside = mask[part]
            before = int(mask[:start].sum())
            want = nearest[before : before + int(inside.sum())]
            wrong[file.stem] += sum(int((answer[inside] != want).sum()) for answer in found)
        if not lookups:
            wrong[file.stem] = -1
    return Conditions(int(mask.sum()), len(runs), wrong, float((two[:, 1] - two[:, 0]).min()))


def _lists_of_conditions(meta: Any) -> list[int]:
    """Find the normaliser's ``conditions`` in a checkpoint's description."""
    if isinstance(meta, dict):
        found = meta.get("conditions")
        if isinstance(found, list) and found and all(isinstance(item, int) for item in found):
            return found
        for value in meta.values():
            if inner := _lists_of_conditions(value):
                return inner
    return []

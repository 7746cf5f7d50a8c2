"""Small real models that say where, in signed bundles: built with onnx, answered by ONNX Runtime.

Anomalies: distance of a cell's brightness from the nearest of the bank's. Detection: bright spots, by max-pool and
TopK. Segmentation: dark and bright by thresholds. All are the same everywhere in a picture.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edge_sft.bundle.keys import PrivateKey
from edge_sft.bundle.manifest import Draft, VariantEntry
from edge_sft.bundle.writing import write_bundle
from edge_sft.policy import AnyPolicy, DetectionPolicy, PictureAnomalyPolicy, SegmentationPolicy
from edge_sft.preprocess import Preprocess
from edge_sft.task import Task, image_anomaly, image_detection, image_segmentation

CELL = 4  # pixels of a cell of all maps
BANK = np.array([[0.4], [0.5]], np.float32)  # good places are mid-grey
FOUND = ("bright", "red")
PARTS = ("background", "dark", "bright")
MOST = 20
SIDE = 12.0  # of every box, pixels
GREY = 115  # brightness of a good part: inside the bank's range

node = helper.make_node


def _brightness() -> list[Any]:
    """``image`` → ``bright`` [N,1,S,S] in [0,1] and ``cells`` [N,1,h,w], its means."""
    return [
        node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("Div", ["float", "c255"], ["scaled"]),
        node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        node("ReduceMean", ["planes", "axis1"], ["bright"], keepdims=1),
        node("AveragePool", ["bright"], ["cells"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
    ]


CONSTANTS = {"c255": np.float32(255), "axis1": np.array([1])}


def _made(
    nodes: list[Any],
    inputs: list[Any],
    outputs: dict[str, tuple[int, list[Any]]],
    constants: dict[str, Any],
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "where",
        inputs,
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _image(size: int) -> Any:
    return helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3])


def anomaly(size: int, *, nan: bool = False, bank: np.ndarray = BANK) -> bytes:
    """``anomaly_map`` = distance of a cell from the nearest of the bank, ``score`` its highest cell."""
    cells = size // CELL
    nodes = [
        *_brightness(),
        node("Reshape", ["cells", "rows"], ["places"]),
        node("ReduceMean", ["places", "axis1"], ["whole"], keepdims=1),
        node("Concat", ["places", "whole"], ["features"], axis=1),
        node("Transpose", ["bank"], ["bank_row"], perm=[1, 0]),
        node("Sub", ["places", "bank_row"], ["apart"]),
        node("Abs", ["apart"], ["far"]),
        node("ReduceMin", ["far", "axis2"], ["nearest"], keepdims=0),
        node("Reshape", ["nearest", "map"], ["plain_map"]),
        node("ReduceMax", ["plain_map", "both"], ["plain_score"], keepdims=0),
        node("Add", ["plain_map", "nothing"], ["anomaly_map"]),
        node("Add", ["plain_score", "nothing"], ["score"]),
    ]
    constants = CONSTANTS | {
        "rows": np.array([0, -1, 1]),
        "axis2": np.array([2]),
        "both": np.array([1, 2]),
        "map": np.array([0, cells, cells]),
        "nothing": np.float32("nan" if nan else 0),
        "bank": bank.astype(np.float32),
    }
    inputs = [_image(size), helper.make_tensor_value_info("bank", TensorProto.FLOAT, list(bank.shape))]
    outputs: dict[str, tuple[int, list[Any]]] = {
        "score": (TensorProto.FLOAT, ["N"]),
        "anomaly_map": (TensorProto.FLOAT, ["N", cells, cells]),
        "features": (TensorProto.FLOAT, ["N", cells * cells + 1, 1]),
    }
    return _made(nodes, inputs, outputs, constants)


def detection(size: int, *, nan: bool = False) -> bytes:
    """Boxes of SIDE around local maxima of brightness; ``red`` where red outshines blue."""
    cells = size // CELL
    nodes = [
        *_brightness(),
        node("AveragePool", ["cells"], ["smooth"], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
        node("Add", ["smooth", "slope"], ["uneven"]),  # of equal neighbours one is the peak
        node("MaxPool", ["uneven"], ["highest"], kernel_shape=[5, 5], strides=[1, 1], pads=[2, 2, 2, 2]),
        node("Equal", ["uneven", "highest"], ["peak"]),
        node("Cast", ["peak"], ["is_peak"], to=TensorProto.FLOAT),
        node("Mul", ["smooth", "is_peak"], ["peaks"]),
        node("Reshape", ["peaks", "flat"], ["ranked"]),
        node("TopK", ["ranked", "most"], ["top", "where"], axis=1),
        node("Add", ["top", "nothing"], ["scores"]),
        node("Div", ["where", "across"], ["row"]),
        node("Mod", ["where", "across"], ["column"]),
        node("Cast", ["row"], ["row_f"], to=TensorProto.FLOAT),
        node("Cast", ["column"], ["column_f"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["row_f", "axis2"], ["y"]),
        node("Unsqueeze", ["column_f", "axis2"], ["x"]),
        node("Concat", ["x", "y", "x", "y"], ["corner"], axis=2),
        node("Mul", ["corner", "cell"], ["pixels"]),
        node("Add", ["pixels", "reach"], ["boxes"]),
        node("AveragePool", ["planes"], ["colours"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        node("Split", ["colours"], ["red", "green", "blue"], axis=1, num_outputs=3),
        node("Sub", ["red", "blue"], ["redder"]),
        node("Reshape", ["redder", "flat"], ["redness"]),
        node("GatherElements", ["redness", "where"], ["of_peak"], axis=1),
        node("Greater", ["of_peak", "tenth"], ["is_red"]),
        node("Cast", ["is_red"], ["labels"], to=TensorProto.INT32),
    ]
    low, high = CELL / 2 - SIDE / 2, CELL / 2 + SIDE / 2
    constants = CONSTANTS | {
        "flat": np.array([0, -1]),
        "most": np.array([MOST]),
        "across": np.array(cells),
        "slope": np.arange(cells * cells, dtype=np.float32).reshape(1, 1, cells, cells) * -1e-6,
        "axis2": np.array([2]),
        "cell": np.float32(CELL),
        "reach": np.array([low, low, high, high], np.float32),
        "tenth": np.float32(0.1),
        "nothing": np.float32("nan" if nan else 0),
    }
    outputs: dict[str, tuple[int, list[Any]]] = {
        "boxes": (TensorProto.FLOAT, ["N", MOST, 4]),
        "scores": (TensorProto.FLOAT, ["N", MOST]),
        "labels": (TensorProto.INT32, ["N", MOST]),
    }
    return _made(nodes, [_image(size)], outputs, constants)


def segmentation(size: int, *, nan: bool = False) -> bytes:
    """Dark below 0.3 of full brightness, bright above 0.7, softly."""
    cells = size // CELL
    nodes = [
        *_brightness(),
        node("Sub", ["cells", "upper"], ["above"]),
        node("Mul", ["above", "steep"], ["above_steep"]),
        node("Sigmoid", ["above_steep"], ["is_bright"]),
        node("Sub", ["lower", "cells"], ["below"]),
        node("Mul", ["below", "steep"], ["below_steep"]),
        node("Sigmoid", ["below_steep"], ["is_dark"]),
        node("Add", ["is_bright", "is_dark"], ["either"]),
        node("Sub", ["one", "either"], ["is_neither"]),
        node("Concat", ["is_neither", "is_dark", "is_bright"], ["stacked"], axis=1),
        node("Add", ["stacked", "nothing"], ["probabilities"]),
    ]
    constants = CONSTANTS | {
        "upper": np.float32(0.7),
        "lower": np.float32(0.3),
        "steep": np.float32(30),
        "one": np.float32(1),
        "nothing": np.float32("nan" if nan else 0),
    }
    outputs: dict[str, tuple[int, list[Any]]] = {"probabilities": (TensorProto.FLOAT, ["N", len(PARTS), cells, cells])}
    return _made(nodes, [_image(size)], outputs, constants)


MAKERS = {"anomaly": anomaly, "detection": detection, "segmentation": segmentation}


def task_of(kind: str, size: int) -> Task:
    places = (size // CELL, size // CELL)
    if kind == "anomaly":
        return image_anomaly(size, size, places=places, features=1, bank=(len(BANK), 1))
    if kind == "detection":
        return image_detection(FOUND, (), size, size, MOST)
    return image_segmentation(PARTS, ("background",), size, size, places)


def policy_of(kind: str, **changes: Any) -> AnyPolicy:
    """Thresholds that a good part of GREY is far below."""
    if kind == "anomaly":
        return PictureAnomalyPolicy(**{"threshold": 0.2, "map_threshold": 0.2, **changes})
    if kind == "detection":
        return DetectionPolicy(**{"labels": FOUND, "thresholds": (0.7, 0.6), **changes})
    return SegmentationPolicy(**{"labels": PARTS, "ok_labels": ("background",), **changes})


def frame(height: int, width: int, *spots: tuple[int, int, int], value: Any = 255) -> np.ndarray:
    """A good part with square spots: (top, left, side) each."""
    picture = np.full((height, width, 3), GREY, np.uint8)
    for top, left, side in spots:
        picture[top : top + side, left : left + side] = value
    return picture


@dataclass(frozen=True)
class DensePlan:
    """A bundle to build. ``graphs`` by variant; by default one fp32 of the kind."""

    kind: str
    size: int = 64
    preprocess: Preprocess | None = None
    policy: AnyPolicy | None = None
    graphs: dict[str, bytes] | None = None
    name: str = "where"
    version: str = "1.0.0"
    tolerance: float = 1e-3

    def but(self, **changes: Any) -> DensePlan:
        return replace(self, **changes)

    def write(self, out: Path, private: PrivateKey) -> Path:
        graphs = self.graphs or {"fp32": MAKERS[self.kind](self.size)}
        task = task_of(self.kind, self.size)
        images = np.stack([frame(self.size, self.size, (8 * i, 8, 12), value=60 * i) for i in range(5)])
        golden: dict[str, Any] = {"in/image": images, "label": np.zeros(len(images), np.int64)}
        for variant, content in graphs.items():
            for name, answer in answers(content, {"image": images}).items():
                if name != "features":
                    golden[f"out/{variant}/{name}"] = answer
        archive = io.BytesIO()
        np.savez(archive, **golden)
        rule = self.policy or policy_of(self.kind)
        files: dict[str, bytes | Path] = {f"{variant}.onnx": content for variant, content in graphs.items()}
        files |= {"golden.npz": archive.getvalue(), "policy.json": rule.model_dump_json().encode()}
        files |= {"recipe.toml": b"# none\n"}
        draft = Draft(
            name=self.name,
            version=self.version,
            created_at="2026-01-01T00:00:00.000Z",
            made_by="tests",
            task=task,
            preprocess=self.preprocess or Preprocess(height=self.size, width=self.size),
            variants=tuple(
                VariantEntry(variant=variant, file=f"{variant}.onnx", golden_tolerance=self.tolerance)
                for variant in graphs
            ),
            dataset_fingerprint="0" * 64,
            weights_sha256="0" * 64,
        )
        return write_bundle(out, draft, files, private)


def answers(content: bytes, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))

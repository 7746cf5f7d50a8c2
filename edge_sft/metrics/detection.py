"""How well boxes are found: average precision by pycocotools, and what a policy's thresholds find and miss."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SAME_OBJECT = 0.5  # overlap from which a box is of an object


@dataclass(frozen=True)
class Objects:
    """What is true in one tile: boxes [n,4] xyxy, labels [n], and boxes [m,4] in which finds are not judged."""

    boxes: Floats
    labels: NDArray[np.int64]
    ignored: Floats


@dataclass(frozen=True)
class Boxes:
    """What was found in one tile: boxes [n,4] xyxy, scores [n], labels [n]; a score of 0 is none."""

    boxes: Floats
    scores: Floats
    labels: NDArray[np.int64]

    def above(self, thresholds: NDArray[np.float64]) -> Boxes:
        """Return those at or above their label's threshold, highest score first."""
        kept = np.flatnonzero((self.scores > 0) & (self.scores >= thresholds[self.labels]))
        kept = kept[np.argsort(-self.scores[kept], kind="stable")]
        return Boxes(self.boxes[kept], self.scores[kept], self.labels[kept])


@dataclass(frozen=True)
class Precision:
    """Average precision as COCO counts it (101 points of recall).

    Attributes:
        ap50: Mean over the labels that occur, at an overlap of 0.5.
        ap: Mean over overlaps of 0.5 to 0.95 as well.
        by_label: (ap50, ap) of each label; NaN for one that does not occur.
    """

    ap50: float
    ap: float
    by_label: tuple[tuple[float, float], ...]


def average_precision(found: Sequence[Boxes], true: Sequence[Objects], labels: int) -> Precision:
    """Return the average precision over tiles; NaN where there is no object at all."""
    nothing = (float("nan"), float("nan"))
    if not sum(len(objects.labels) for objects in true):
        return Precision(*nothing, (nothing,) * labels)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        precision = _evaluated(found, true, labels)
    values = np.where(precision > -1, precision, np.nan)  # [overlap, recall, label]
    occurs: NDArray[np.bool_] = ~np.isnan(values[0, 0])
    by_label = tuple(
        (float(values[0, :, k].mean()), float(values[:, :, k].mean())) if occurs[k] else nothing for k in range(labels)
    )
    return Precision(float(values[0][:, occurs].mean()), float(values[:, :, occurs].mean()), by_label)


def _evaluated(found: Sequence[Boxes], true: Sequence[Objects], labels: int) -> NDArray[np.float64]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = {
        "images": [{"id": index} for index in range(len(true))],
        "categories": [{"id": label} for label in range(labels)],
        "annotations": _annotations(true, labels),
    }
    truth.createIndex()
    rows = [
        np.column_stack([np.full(len(one.scores), index), _xywh(one.boxes), one.scores, one.labels])[one.scores > 0]
        for index, one in enumerate(found)
    ]
    table = np.concatenate([*rows, np.zeros((0, 7))])
    judged = COCOeval(truth, truth.loadRes(table) if len(table) else _none(truth), "bbox")
    most = max(100, *(len(one.scores) for one in found))
    judged.params.maxDets = [1, 10, most]
    judged.params.areaRng, judged.params.areaRngLbl = judged.params.areaRng[:1], judged.params.areaRngLbl[:1]
    judged.evaluate()
    judged.accumulate()
    return np.asarray(judged.eval["precision"][:, :, :, 0, -1], dtype=np.float64)


def _none(truth: Any) -> Any:
    from pycocotools.coco import COCO

    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _annotations(true: Sequence[Objects], labels: int) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for index, objects in enumerate(true):
        marked = [(box, int(label), 0) for box, label in zip(objects.boxes, objects.labels, strict=True)]
        marked += [(box, label, 1) for box in objects.ignored for label in range(labels)]
        for box, label, crowd in marked:
            x, y, width, height = _xywh(box[None])[0].tolist()
            area = {"area": width * height, "iscrowd": crowd, "bbox": [x, y, width, height]}
            result.append({"id": len(result) + 1, "image_id": index, "category_id": label, **area})
    return result


def _xywh(boxes: Floats) -> NDArray[np.float64]:
    return np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).astype(np.float64)


@dataclass(frozen=True)
class Finds:
    """Objects and boxes counted at thresholds, by label [K]; a box is right that overlaps an object of its label."""

    objects: NDArray[np.int64]
    hit: NDArray[np.int64]
    boxes: NDArray[np.int64]
    right: NDArray[np.int64]


def finds(found: Sequence[Boxes], true: Sequence[Objects], thresholds: Sequence[float]) -> Finds:
    """Count what is found at each label's threshold; the higher score takes an object first, each object once."""
    limits = np.asarray(thresholds, dtype=np.float64)
    counts = np.zeros((4, len(limits)), dtype=np.int64)
    for boxes, objects in zip(found, true, strict=True):
        kept = boxes.above(limits)
        taken = matched(kept, objects)
        plain = (taken >= 0) | ~_excused(kept, objects)
        counts[0] += np.bincount(objects.labels, minlength=len(limits))
        counts[1] += np.bincount(kept.labels[taken >= 0], minlength=len(limits))
        counts[2] += np.bincount(kept.labels[plain], minlength=len(limits))
    counts[3] = counts[1]
    return Finds(*counts)


def matched(found: Boxes, objects: Objects) -> NDArray[np.int64]:
    """Return which object each box (in falling order of score) is of, -1 for none."""
    result = np.full(len(found.labels), -1, dtype=np.int64)
    if not len(objects.labels):
        return result
    shared = overlap(found.boxes, objects.boxes)
    shared[found.labels[:, None] != objects.labels[None]] = 0
    for index in range(len(result)):
        best = int(shared[index].argmax())
        if shared[index, best] >= SAME_OBJECT:
            result[index] = best
            shared[:, best] = 0
    return result


def overlap(a: Floats, b: Floats) -> NDArray[np.float64]:
    """Return the intersection over union of boxes [n,4] with boxes [m,4], [n,m]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    union = _areas(a)[:, None] + _areas(b)[None] - shared
    return np.asarray(shared / np.maximum(union, 1e-9), dtype=np.float64)


def _areas(boxes: Floats) -> Floats:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), dtype=np.float32)


def _excused(found: Boxes, objects: Objects) -> NDArray[np.bool_]:
    """Tell which boxes lie, by more than half, where nothing is judged."""
    if not len(objects.ignored):
        return np.zeros(len(found.labels), dtype=np.bool_)
    low = np.maximum(found.boxes[:, None, :2], objects.ignored[None, :, :2])
    high = np.minimum(found.boxes[:, None, 2:], objects.ignored[None, :, 2:])
    share = np.clip(high - low, 0, None).prod(axis=2) / np.maximum(_areas(found.boxes), 1e-9)[:, None]
    return np.asarray((share > 0.5).any(axis=1), dtype=np.bool_)

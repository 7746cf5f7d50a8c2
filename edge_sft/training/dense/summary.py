"""What checkpoint.json says of a split, and the arrays behind it that reports and gates read."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.metrics.detection import average_precision, finds
from edge_sft.metrics.intervals import clopper_pearson
from edge_sft.metrics.segmentation import aupro, defects, enlarged, label_overlap
from edge_sft.policy import DetectionPolicy, SegmentationPolicy
from edge_sft.preprocess import Preprocess
from edge_sft.task import Task
from edge_sft.training.dense.evidence import Shown, of_boxes, of_maps, shown
from edge_sft.training.dense.judging import Said, masks, objects
from edge_sft.training.dense.samples import Samples

DensePolicy = DetectionPolicy | SegmentationPolicy


@dataclass(frozen=True)
class Judged:
    """One split: its tiles, what was said of them, what its pictures show."""

    task: Task
    geometry: Preprocess
    samples: Samples
    said: Said
    shown: Shown

    @property
    def defects(self) -> list[int]:
        """Positions of the defect labels among the recipe's."""
        first = 1 if self.task.kind == "segmentation" else 0
        return [index - first for index, label in enumerate(self.task.labels) if label in self.task.defect_labels]

    @property
    def defect_map(self) -> NDArray[np.float32]:
        """The defects' probabilities added up, [N,h,w]."""
        rows, columns = self.task.outputs[0].shape[-2:]
        if self.said.maps is None:
            return np.zeros((0, rows, columns), dtype=np.float32)
        bad = [index for index, label in enumerate(self.task.labels) if label in self.task.defect_labels]
        return np.asarray(self.said.maps[:, bad].sum(axis=1), dtype=np.float32)

    @property
    def marked(self) -> list[NDArray[np.uint8]]:
        """Masks of the defect labels alone, 1 where one is."""
        numbers = [number + 1 for number in self.defects]
        return [np.isin(mask, numbers).astype(np.uint8) for mask in masks(self.samples.drawn)]

    @property
    def pixels_a_cell(self) -> float:
        """How many pixels of the frame a cell of the map covers, in the middle of all pictures."""
        rows, columns = self.task.outputs[0].shape[-2:]
        return self.geometry.height / rows * self.geometry.width / columns / self.samples.scale**2

    @property
    def mm_a_pixel(self) -> float:
        """Millimetres of the part in a pixel of a tile; NaN where the recipe has no scale."""
        return (self.geometry.mm_per_pixel or float("nan")) / self.samples.scale


def judged(task: Task, geometry: Preprocess, samples: Samples, said: Said) -> Judged:
    """Put together what is known of a split."""
    first = 1 if task.kind == "segmentation" else 0
    bad = [index - first for index, label in enumerate(task.labels) if label in task.defect_labels]
    return Judged(task, geometry, samples, said, shown(samples, bad))


def summary(one: Judged, policy: DensePolicy) -> dict[str, float]:
    """Return the split's numbers by name; what is undefined is left out.

    Shares in [0, 1]; ``*_low`` and ``*_high`` are exact 95 % bounds. Both kinds: ``pictures``, ``defects``,
    ``escaped``, ``escape_rate``, ``goods``, ``scrapped``, ``overkill_rate``. Detection: ``objects``, ``map50``,
    ``map50_95``, ``ap50.LABEL``, ``ap.LABEL``, and at the thresholds ``recall``, ``precision``, ``recall.LABEL``.
    Segmentation: ``iou`` (mean over what may be marked), ``iou.LABEL``, ``aupro``, and at the threshold
    ``marked_defects``, ``defect_recall``, ``false_parts``, ``area_error`` (median share) and, with a scale,
    ``length_error_mm`` (median). Tiles of a large picture are judged one by one, verdicts by the whole picture.
    """
    if not len(one.samples):
        return {}
    own = _detection(one, policy) if isinstance(policy, DetectionPolicy) else _segmentation(one, policy)
    numbers: dict[str, float] = {"pictures": len(one.samples.items), **own, **_verdicts(one, policy)}
    return {name: round(float(value), 6) for name, value in numbers.items() if math.isfinite(value)}


def arrays(one: Judged, policy: DensePolicy, split: str) -> dict[str, NDArray[Any]]:
    """Return what was said and is true of a split, as `checkpoint.write_sensor_scores` takes it.

    Keys, each behind ``<split>/``: ``ids`` (JSON list as bytes) [P pictures], ``good`` [P], ``evidence`` [P] (see
    `evidence_of`), ``picture`` [N tiles]. Detection: ``boxes`` [N,M,4], ``scores`` [N,M], ``labels`` [N,M], and of what
    is true ``true_boxes`` [n,4], ``true_labels`` [n], ``true_tile`` [n]; boxes are in pixels of the tile.
    Segmentation: ``defect`` float16 [N,h,w] (the defects' probability), ``label`` uint8 [N,h,w] (the most probable).
    """
    ids = json.dumps([item.id for item in one.samples.items]).encode()
    found: dict[str, NDArray[Any]] = {
        "ids": np.frombuffer(ids, dtype=np.uint8),
        "good": one.shown.good,
        "evidence": evidence_of(one, policy),
        "picture": one.samples.picture,
    }
    if isinstance(policy, DetectionPolicy):
        drawn = one.samples.drawn
        for name in ("boxes", "scores", "labels") if one.said.boxes else ():
            found[name] = np.stack([getattr(boxes, name) for boxes in one.said.boxes])
        found["true_boxes"] = np.concatenate([*(tile.boxes for tile in drawn), np.zeros((0, 4), np.float32)])
        found["true_labels"] = np.concatenate([*(tile.labels for tile in drawn), np.zeros(0, np.int64)])
        found["true_tile"] = np.repeat(np.arange(len(drawn)), [len(tile.labels) for tile in drawn])
    elif one.said.maps is not None:
        found["defect"] = one.defect_map.astype(np.float16)
        found["label"] = one.said.maps.argmax(axis=1).astype(np.uint8)
    return {f"{split}/{name}": value for name, value in found.items()}


def evidence_of(one: Judged, policy: DensePolicy) -> NDArray[np.float64]:
    """Return how much speaks against each picture, [P].

    Detection: the highest score of a defect's box against its threshold; ``nok`` from 1. Segmentation: the highest
    probability in a part that counts; ``nok`` from the policy's threshold or ``min_peak``, whichever is higher.
    """
    if isinstance(policy, DetectionPolicy):
        return one.shown.highest(of_boxes(one.said.boxes, policy.thresholds, one.defects))
    cells = policy.min_area_px / one.pixels_a_cell
    return one.shown.highest(of_maps(one.defect_map, policy.threshold, cells - 1e-6))


def _verdicts(one: Judged, policy: DensePolicy) -> dict[str, float]:
    limit = 1.0 if isinstance(policy, DetectionPolicy) else max(policy.threshold, policy.min_peak)
    rejected, good = evidence_of(one, policy) >= limit, one.shown.good
    escaped, bad = int((~rejected & ~good).sum()), int((~good).sum())
    scrapped, goods = int((rejected & good).sum()), int(good.sum())
    result: dict[str, float] = {"defects": bad, "goods": goods}
    if bad:
        low, high = clopper_pearson(escaped, bad)
        result |= {"escaped": escaped, "escape_rate": escaped / bad, "escape_rate_low": low, "escape_rate_high": high}
    if goods:
        low, high = clopper_pearson(scrapped, goods)
        share = scrapped / goods
        result |= {"scrapped": scrapped, "overkill_rate": share, "overkill_rate_low": low, "overkill_rate_high": high}
    return result


def _detection(one: Judged, policy: DetectionPolicy) -> dict[str, float]:
    true = objects(one.samples.drawn)
    precision = average_precision(one.said.boxes, true, len(policy.labels))
    counted = finds(one.said.boxes, true, policy.thresholds)
    result = {
        "objects": float(counted.objects.sum()),
        "map50": precision.ap50,
        "map50_95": precision.ap,
        "recall": _share(counted.hit.sum(), counted.objects.sum()),
        "precision": _share(counted.right.sum(), counted.boxes.sum()),
    }
    for index, label in enumerate(policy.labels):
        result[f"ap50.{label}"], result[f"ap.{label}"] = precision.by_label[index]
        result[f"recall.{label}"] = _share(counted.hit[index], counted.objects[index])
    return result


def _segmentation(one: Judged, policy: SegmentationPolicy) -> dict[str, float]:
    assert one.said.maps is not None  # there are tiles
    by_label = label_overlap(one.said.maps, masks(one.samples.drawn))
    height, width = one.geometry.height, one.geometry.width
    large = [enlarged(cells[None], height, width)[0] for cells in one.defect_map]
    compared = defects([cells >= policy.threshold for cells in large], one.marked)
    known = by_label[1:][~np.isnan(by_label[1:])]
    true_area, said_area = compared.areas.T
    true_length, said_length = compared.lengths.T
    result = {
        "iou": float(known.mean()) if len(known) else float("nan"),
        "aupro": aupro(large, one.marked),
        "marked_defects": float(compared.count),
        "defect_recall": _share(compared.found, compared.count),
        "false_parts": float(compared.wrong),
        "area_error": _median(np.abs(said_area - true_area) / true_area),
        "length_error_mm": _median(np.abs(said_length - true_length)) * one.mm_a_pixel,
    }
    return result | {f"iou.{label}": float(by_label[index]) for index, label in enumerate(policy.labels)}


def _share(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else float("nan")

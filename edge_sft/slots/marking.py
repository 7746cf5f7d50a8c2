"""From a graph's outputs on all tiles of one picture to a Decision with marks, and to the map behind it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.policy import DetectionPolicy, PictureAnomalyPolicy, PicturePolicy, SegmentationPolicy, decide_picture
from edge_sft.prediction import Decision, Mark
from edge_sft.preprocess import Preprocess
from edge_sft.preprocess.images import region_box
from edge_sft.preprocess.tiling import Placement, View
from edge_sft.slots import boxes, regions
from edge_sft.slots.regions import Least, Ruler

Arrays = dict[str, NDArray[Any]]
FEATURES = "features"  # what a memory is made of; no decision needs it


@dataclass(frozen=True)
class Scene:
    """Where a picture's tiles lie and how large things in it are.

    Attributes:
        placement: How the frame was cut.
        region: What of the frame the model sees: left, top, right, bottom, pixels.
        mm_per_pixel: Of the frame; None where nobody measured it.
    """

    placement: Placement
    region: tuple[int, int, int, int]
    mm_per_pixel: float | None = None

    @classmethod
    def of(cls, placement: Placement, spec: Preprocess) -> Scene:
        """Return the scene of a frame that was cut as ``spec`` says."""
        return cls(placement, region_box(*placement.frame, spec.roi), spec.mm_per_pixel)

    @classmethod
    def of_tile(cls, height: int, width: int) -> Scene:
        """Return the scene of a tile that is a picture of its own, as golden samples are."""
        placement = Placement(
            (height, width), (height, width), (View((1.0, 1.0), (0.0, 0.0)),), (height, width), ((0, 0),)
        )
        return cls(placement, (0, 0, width, height))


@dataclass(frozen=True)
class Heat:
    """How much each place speaks for a defect.

    Attributes:
        values: [h,w]; 1 is at the threshold from which places are marked.
        view: How the frame lies in it: cell = frame x scale + shift.
        region: What of the frame the model sees.
    """

    values: NDArray[np.float32]
    view: View
    region: tuple[int, int, int, int]


@dataclass(frozen=True)
class Judged:
    """A decision; how many marks there were, where its marks are not all; the map, where the model gives one."""

    decision: Decision
    found: int | None = None
    heat: Heat | None = None


def joined(parts: Iterable[Arrays]) -> Arrays:
    """Put the outputs of batches of tiles together, without what no decision needs."""
    kept: dict[str, list[NDArray[Any]]] = {}
    for part in parts:
        for name, array in part.items():
            if name != FEATURES:
                kept.setdefault(name, []).append(array)
    return {name: arrays[0] if len(arrays) == 1 else np.concatenate(arrays) for name, arrays in kept.items()}


def judge(outputs: Arrays, scene: Scene, policy: PicturePolicy) -> Judged:
    """Decide about one picture.

    Args:
        outputs: The graph's on all its tiles, in the placement's order, [T,…].
        scene: Where they lie.
        policy: The active one.
    """
    if not all(np.isfinite(array).all() for name, array in outputs.items() if name != FEATURES):
        return Judged(decide_picture(float("nan"), (), policy))
    if isinstance(policy, PictureAnomalyPolicy):
        return _anomaly(outputs, scene, policy)
    if isinstance(policy, DetectionPolicy):
        return _detection(outputs, scene, policy)
    return _segmentation(outputs, scene, policy)


def _anomaly(outputs: Arrays, scene: Scene, policy: PictureAnomalyPolicy) -> Judged:
    merged = scene.placement.merge(outputs["anomaly_map"])
    ruler = _ruler(merged, scene)
    marks: list[Mark] = []
    found = 0
    if policy.map_threshold is not None:
        least = Least(0.0, policy.min_area_mm2, policy.min_length_mm)
        marks, found = regions.regions(merged, policy.map_threshold, ruler, least=least)
    decision = decide_picture(float(outputs["score"].max()), marks, policy)
    heat = Heat(merged / np.float32(policy.map_threshold or policy.threshold), ruler.view, scene.region)
    return Judged(decision, found, heat)


def _detection(outputs: Arrays, scene: Scene, policy: DetectionPolicy) -> Judged:
    marks = boxes.marks_of(outputs, scene.placement, scene.region, policy.labels, scene.mm_per_pixel)
    bad = np.array([label not in policy.ok_labels for label in policy.labels])
    highest = float((outputs["scores"] * bad[np.clip(outputs["labels"], 0, len(bad) - 1)]).max(initial=0.0))
    decision = decide_picture(highest, marks, policy)
    return Judged(decision, len(decision.marks or ()))


def _segmentation(outputs: Arrays, scene: Scene, policy: SegmentationPolicy) -> Judged:
    merged = scene.placement.merge(outputs["probabilities"])
    ruler = _ruler(merged, scene)
    least = Least(policy.min_area_px, policy.min_area_mm2, policy.min_length_mm)
    marks, found = regions.parts(merged, policy.labels, policy.ok_labels, policy.threshold, ruler, least=least)
    bad = [index for index, label in enumerate(policy.labels) if label not in policy.ok_labels]
    defects = np.asarray(merged[bad].sum(axis=0), dtype=np.float32)
    rows, columns = ruler.inside((defects.shape[0], defects.shape[1]))
    highest = float(np.clip(defects[rows, columns].max(initial=0.0), 0.0, 1.0))
    decision = decide_picture(highest, marks, policy)
    told = found if len(decision.marks or ()) == len(marks) else len(decision.marks or ())
    return Judged(decision, told, Heat(defects / np.float32(policy.threshold), ruler.view, scene.region))


def _ruler(merged: NDArray[np.float32], scene: Scene) -> Ruler:
    view = scene.placement.map_view((merged.shape[-2], merged.shape[-1]))
    return Ruler(view, scene.region, scene.mm_per_pixel)

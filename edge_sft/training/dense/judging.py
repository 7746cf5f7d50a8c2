"""What a network says of a split, and how good that is as one number to choose by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sft.metrics.detection import Boxes, Objects, average_precision
from edge_sft.metrics.segmentation import label_overlap
from edge_sft.task import TaskKind
from edge_sft.training.dense.network import DenseNetwork
from edge_sft.training.dense.samples import Drawn, Samples

_BATCH = 16


@dataclass(frozen=True)
class Said:
    """The task's outputs of N tiles: boxes in detection, probabilities float32 [N,K,h,w] in segmentation."""

    boxes: tuple[Boxes, ...] = ()
    maps: NDArray[np.float32] | None = None


def ask(network: DenseNetwork, samples: Samples, kind: TaskKind) -> Said:
    """Run the network over a split."""
    parts = [
        network.answers(np.ascontiguousarray(samples.images[start : start + _BATCH]))
        for start in range(0, len(samples), _BATCH)
    ]
    if kind == "segmentation":
        maps = [np.asarray(part[0], dtype=np.float32) for part in parts]
        return Said(maps=np.concatenate(maps) if maps else None)
    return Said(
        boxes=tuple(
            Boxes(np.asarray(boxes, np.float32), np.asarray(scores, np.float32), labels.astype(np.int64))
            for part in parts
            for boxes, scores, labels in zip(*part, strict=True)
        )
    )


def merit(said: Said, samples: Samples, labels: int) -> float:
    """Return how good the answers are, higher is better; 0 where there is nothing to judge by.

    Detection: average precision over overlaps of 0.5 to 0.95. Segmentation: mean overlap of the defects' labels.
    """
    if said.maps is not None:
        by_label = label_overlap(said.maps, masks(samples.drawn))[1:]
        known = by_label[~np.isnan(by_label)]
        return float(known.mean()) if len(known) else 0.0
    found = average_precision(said.boxes, objects(samples.drawn), labels).ap
    return 0.0 if np.isnan(found) else found


def objects(drawn: Sequence[Drawn]) -> list[Objects]:
    """Return what is true as the metrics take it."""
    return [Objects(one.boxes, one.labels, one.ignored) for one in drawn]


def masks(drawn: Sequence[Drawn]) -> list[NDArray[np.uint8]]:
    """Return the masks as the metrics take them."""
    return [one.mask for one in drawn if one.mask is not None]

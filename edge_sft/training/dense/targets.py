"""What the network shall say of a tile: heat around centres and boxes to learn there, or shares of labels by cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sft.training.dense.samples import Drawn, Floats, areas

# Half of an object's width and height within which cells learn its box (TTFNet, Liu et al. 2020): several cells an
# object learn at once, which a training of minutes needs.
_REACH = 0.54


@dataclass(frozen=True)
class Wanted:
    """Targets of a batch of detection.

    Attributes:
        heat: float32 [N,K,h,w], 1 at centres and falling around them.
        boxes: float32 [N,4,h,w], xyxy in pixels, where ``share`` is above 0.
        share: float32 [N,1,h,w], how much a cell counts in learning the box; adds up to 1 for each object.
        judged: float32 [N,1,h,w], 0 where whatever is found is neither right nor wrong.
    """

    heat: Floats
    boxes: Floats
    share: Floats
    judged: Floats


def wanted(batch: list[Drawn], labels: int, cells: tuple[int, int], stride: int) -> Wanted:
    """Draw the targets of a batch, (h, w) ``cells`` of ``stride`` pixels."""
    shape = (len(batch), 1, *cells)
    found = Wanted(
        np.zeros((len(batch), labels, *cells), np.float32),
        np.zeros((len(batch), 4, *cells), np.float32),
        np.zeros(shape, np.float32),
        np.ones(shape, np.float32),
    )
    for index, drawn in enumerate(batch):
        for left, top, right, bottom in drawn.ignored / stride:
            found.judged[index, 0, int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = 0
        for place in np.argsort(-areas(drawn.boxes), kind="stable"):  # small ones last: they lie on the large
            _draw(found, index, drawn.boxes[place], int(drawn.labels[place]), stride)
    return found


def _draw(found: Wanted, index: int, box: Floats, label: int, stride: int) -> None:
    height, width = found.heat.shape[-2:]
    x, y = (min(int((box[axis] + box[axis + 2]) / 2 / stride), side - 1) for axis, side in ((0, width), (1, height)))
    reach_x, reach_y = (int((box[axis + 2] - box[axis]) / 2 * _REACH / stride) for axis in (0, 1))
    bell = np.outer(_bell(reach_y), _bell(reach_x))
    rows = slice(max(0, y - reach_y), min(height, y + reach_y + 1))
    columns = slice(max(0, x - reach_x), min(width, x + reach_x + 1))
    part = bell[
        rows.start - y + reach_y : rows.stop - y + reach_y,
        columns.start - x + reach_x : columns.stop - x + reach_x,
    ]
    heat = found.heat[index, label, rows, columns]
    np.maximum(heat, part, out=heat)
    found.boxes[index, :, rows, columns] = box[:, None, None]
    found.share[index, 0, rows, columns] = part / part.sum()
    found.judged[index, 0, y, x] = 1


def _bell(reach: int) -> Floats:
    deviation = (2 * reach + 1) / 6
    steps = np.arange(-reach, reach + 1)
    return np.exp(-(steps**2) / (2 * deviation**2)).astype(np.float32)


def shares(batch: list[Drawn], labels: int, cells: tuple[int, int]) -> Floats:
    """Return each label's share of every cell, float32 [N,K,h,w]; label 0 is the background."""
    masks = np.stack([drawn.mask for drawn in batch if drawn.mask is not None])
    rows, columns = masks.shape[1] // cells[0], masks.shape[2] // cells[1]
    blocks: NDArray[np.uint8] = masks.reshape(len(masks), cells[0], rows, cells[1], columns)
    found = [(blocks == label).mean(axis=(2, 4), dtype=np.float32) for label in range(labels)]
    return np.stack(found, axis=1)

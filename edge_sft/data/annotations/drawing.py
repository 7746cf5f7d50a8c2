"""Truths as arrays: a mask of label numbers, boxes of what is marked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.truth import Annotation, Truth
from edge_sft.errors import DataError
from edge_sft.preprocess import read_image


def label_mask(
    truth: Truth, height: int, width: int, labels: Sequence[str], item_label: str, *, fill_boxes: bool = False
) -> NDArray[np.uint8]:
    """Draw what is marked: uint8 [H,W], 0 = nothing, i + 1 = ``labels[i]``; labels that are not asked for stay 0.

    Args:
        truth: What is marked.
        height: Of the file's picture.
        width: Of the file's picture.
        labels: In the order of their numbers; at most 255.
        item_label: The picture's own label: what a mask without named values marks.
        fill_boxes: Draw annotations without an outline as filled boxes; by default they draw nothing.

    Raises:
        DataError: The mask cannot be read or has another size.
    """
    import cv2

    drawn = np.zeros((height, width), dtype=np.uint8)
    numbers = {label: number for number, label in enumerate(labels, start=1)}
    if truth.mask is not None:
        values = _mask_values(truth, height, width)
        if truth.values:
            for value, label in truth.values:
                drawn[values == value] = numbers.get(label, 0)
        else:
            drawn[values != 0] = numbers.get(item_label, 0)
    for mark in truth.annotations:
        number = numbers.get(mark.label, 0)
        if not number or mark.crowd:
            continue
        if mark.outlines:
            polygons = [np.rint(np.asarray(outline) - 0.5).astype(np.int32) for outline in mark.outlines]
            cv2.fillPoly(drawn, polygons, color=(number,))
        elif fill_boxes:
            left, top, right, bottom = (round(side) for side in mark.box)
            drawn[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = number
    return drawn


def boxes_of(
    truth: Truth, height: int, width: int, labels: Sequence[str], item_label: str, *, least_area: int = 4
) -> list[Annotation]:
    """Return what is marked as boxes of known labels: annotations, and the connected parts of a mask.

    Args:
        truth: What is marked.
        height: Of the file's picture.
        width: Of the file's picture.
        labels: Those that are asked for.
        item_label: The picture's own label: what a mask without named values marks.
        least_area: Parts of a mask with fewer pixels are specks of the brush.

    Raises:
        DataError: The mask cannot be read or has another size.
    """
    import cv2

    boxes = [mark for mark in truth.annotations if mark.label in labels]
    if truth.mask is None:
        return boxes
    drawn = label_mask(Truth(mask=truth.mask, values=truth.values), height, width, labels, item_label)
    for number, label in enumerate(labels, start=1):
        if not (drawn == number).any():
            continue
        _, _, parts, _ = cv2.connectedComponentsWithStats((drawn == number).astype(np.uint8), connectivity=8)
        for left, top, wide, high, area in parts[1:].tolist():
            if area >= least_area:
                boxes.append(Annotation(label, (float(left), float(top), float(left + wide), float(top + high))))
    return boxes


def _mask_values(truth: Truth, height: int, width: int) -> NDArray[np.uint8]:
    assert truth.mask is not None  # asked before; for the type
    values = read_image(truth.mask)
    if values.ndim == 3:
        values = values[:, :, :3].max(axis=2)
    if values.shape != (height, width):
        raise DataError(
            str(truth.mask),
            f"is {values.shape[1]} x {values.shape[0]}, its picture {width} x {height}",
            "Export the mask in the picture's size.",
        )
    return np.asarray(values, dtype=np.uint8)

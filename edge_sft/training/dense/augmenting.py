"""What may happen to a training tile and to what is marked in it: one affine warp for both, one change of light."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_sft.recipe import AugmentSection
from edge_sft.training.dense.samples import Drawn, Floats, inside

Matrix = NDArray[np.float64]


def augmented(
    image: NDArray[np.uint8], drawn: Drawn, how: AugmentSection, random: np.random.Generator
) -> tuple[Floats, Drawn]:
    """Augment one tile as the recipe allows.

    Args:
        image: uint8 [H,W,3].
        drawn: What is true in it.
        how: What is allowed.
        random: The same state gives the same result.

    Returns:
        float32 [H,W,3] in 0–255, and what is true in it now.
    """
    matrix = _matrix(image.shape[0], image.shape[1], how, random)
    if not np.array_equal(matrix, np.eye(2, 3)):
        image, drawn = _warped(image, drawn, matrix)
    return _lit(image, how, random), drawn


def _matrix(height: int, width: int, how: AugmentSection, random: np.random.Generator) -> Matrix:
    """Return the map from points of the tile to points of the augmented one, [2,3], y down, pixel corners whole.

    Shifts are whole pixels: with flips alone nothing is interpolated, and tiles stay as sharp as those on the line.
    """
    flip_x, flip_y = random.random(2) < 0.5
    turn, size, right, down = random.uniform(-1, 1, 4)
    angle = math.radians(turn * how.rotate_deg)
    scale = 1 + size * how.scale
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    signs = -1.0 if flip_x and how.flip_horizontal else 1.0, -1.0 if flip_y and how.flip_vertical else 1.0
    linear = np.array([[cos * signs[0], -sin * signs[1]], [sin * signs[0], cos * signs[1]]])
    centre = np.array([width / 2, height / 2])
    shift = np.rint(np.array([right * how.shift * width, down * how.shift * height]))
    return np.column_stack([linear, centre + shift - linear @ centre])


def _warped(image: NDArray[np.uint8], drawn: Drawn, matrix: Matrix) -> tuple[NDArray[np.uint8], Drawn]:
    import cv2

    height, width = image.shape[:2]
    # warpAffine counts from the centres of pixels, marks from their corners
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ np.full(2, 0.5) - 0.5
    # a mirrored object has a mask but no box: boxes get a border that continues no object
    border = cv2.BORDER_REPLICATE if drawn.mask is None else cv2.BORDER_REFLECT_101
    moved = cv2.warpAffine(image, centred, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)
    mask = drawn.mask
    if mask is not None:
        mask = np.asarray(
            cv2.warpAffine(mask, centred, (width, height), flags=cv2.INTER_NEAREST, borderMode=border), dtype=np.uint8
        )
        return np.asarray(moved, dtype=np.uint8), Drawn(drawn.boxes, drawn.labels, drawn.ignored, mask)
    boxes = _moved(np.concatenate([drawn.boxes, drawn.ignored]), matrix)
    crowd = np.arange(len(boxes)) >= len(drawn.boxes)
    labels = np.concatenate([drawn.labels, np.zeros(len(drawn.ignored), dtype=np.int64)])
    return np.asarray(moved, dtype=np.uint8), inside(boxes, labels, crowd, (height, width))


def _moved(boxes: Floats, matrix: Matrix) -> Floats:
    """Return the upright boxes around moved ones, [n,4]."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2) @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)


def _lit(image: NDArray[np.uint8], how: AugmentSection, random: np.random.Generator) -> Floats:
    light, contrast = random.uniform(-1, 1, 2)
    values = image.astype(np.float32)
    middle = values.mean()
    values = (values - middle) * np.float32(1 + contrast * how.contrast) + middle
    values += np.float32(light * how.brightness * 127.0)
    if how.noise:
        values += random.standard_normal(values.shape, dtype=np.float32) * np.float32(how.noise * 255.0)
    return np.asarray(np.clip(values, 0.0, 255.0), dtype=np.float32)

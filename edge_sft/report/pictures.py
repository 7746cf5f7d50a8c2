"""Pictures on a page: small JPEGs as data URIs, so that the page stays one file."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.report.markup import Child, Html, el

LARGEST_SIDE = 160


def data_uri(image: NDArray[Any], largest: int = LARGEST_SIDE) -> str | None:
    """Return a picture as a JPEG data URI of at most ``largest`` pixels a side; None for what is no picture.

    Args:
        image: uint8 or uint16, [H, W], [H, W, 1] or [H, W, 3] RGB.
    """
    if image.ndim not in (2, 3) or 0 in image.shape or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        return None
    import cv2

    small = image if image.dtype == np.uint8 else np.clip(image.astype(np.float32) / 257, 0, 255).astype(np.uint8)
    height, width = small.shape[:2]
    scale = largest / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA))
    if small.ndim == 3 and small.shape[2] == 3:
        small = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    done, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 82])
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}" if done else None


def figure(image: NDArray[Any] | None, *, name: str, lines: list[Child]) -> Html:
    """One picture of a gallery with its file name and lines under it; a grey field where there is no picture."""
    source = None if image is None else data_uri(image)
    shown = el("img", src=source, alt=name, loading="lazy") if source else Html("picture not available")
    caption = el("figcaption", name, [el("span", line) for line in lines])
    return el("figure", el("div", shown, class_="frame"), caption)

"""A picture for people: the frame with what was found drawn over it.

Colours of the map mean the same in every picture: nothing below half of the threshold, yellow at it, red from twice it
on. A scale that is stretched to each picture's own highest place would show a defect on every good part.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_sft.prediction import MOST_MARKS, Mark, Prediction
from edge_sft.slots.regions import outlines

if TYPE_CHECKING:
    from edge_sft.slots.marking import Heat
    from edge_sft.slots.predictor import Explained

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

LARGEST = 2048  # longest side of an overlay, pixels
_SMALLEST = 512  # smaller pictures are enlarged: text must be readable
_NAMED = 20  # marks with a text; of the others only the box or outline is drawn
_STOPS = (0.5, 0.75, 1.0, 1.5, 2.0)  # of the threshold
_COLOURS = ((49, 104, 220), (40, 170, 170), (250, 210, 40), (240, 120, 30), (200, 20, 30))
_OPAQUE = (0.0, 0.25, 0.45, 0.5, 0.55)
_VERDICTS: dict[str, Colour] = {
    "ok": (26, 127, 69),
    "nok": (200, 20, 30),
    "uncertain": (190, 122, 0),
    "no_decision": (90, 99, 114),
}
_WHITE, _BLACK = (255, 255, 255), (20, 20, 20)
_SPELT = {
    "ä": "ae",
    "ö": "oe",
    "ü": "ue",
    "Ä": "Ae",
    "Ö": "Oe",
    "Ü": "Ue",
    "ß": "ss",
    "ø": "o",
    "Ø": "O",
    "ł": "l",
    "Ł": "L",
}


def draw(explained: Explained, *, mm_per_pixel: float | None = None, largest: int = LARGEST) -> Picture:
    """Draw an overlay.

    Args:
        explained: The frame, its prediction, and the map where there is one.
        mm_per_pixel: Of the frame as the camera gave it, for a scale bar.
        largest: Longest side, pixels.

    Returns:
        uint8 [H,W,3] RGB.
    """
    picture = _sized(explained.frame, largest)
    scale = picture.shape[1] / explained.size[1], picture.shape[0] / explained.size[0]
    weight = max(1, round(max(picture.shape[:2]) / 600))
    marks = explained.prediction.marks or ()
    if explained.heat is not None:
        picture = _heated(picture, explained.heat, scale)
        _outline(picture, explained.heat, marks, scale, weight)
    else:
        for mark in marks:
            _box(picture, mark, scale, weight)
    for mark in reversed(marks[:_NAMED]):  # the highest last: on top
        _name(picture, mark, scale, weight)
    _say(picture, headline(explained.prediction), (0, 0), _VERDICTS[explained.prediction.verdict], weight, size=0.6)
    if mm_per_pixel is not None:
        _scale_bar(picture, mm_per_pixel / scale[0], weight)
    return picture


def jpeg(picture: Picture, quality: int = 90) -> bytes:
    """Encode RGB as JPEG."""
    import cv2

    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(encoded.tobytes())


def jpeg_within(picture: Picture, most_bytes: int) -> bytes | None:
    """Encode RGB as JPEG of at most so many bytes: of less quality, then smaller; None where even a stamp is larger."""
    import cv2

    while most_bytes > 0 and max(picture.shape[:2]) >= 64:
        for quality in (85, 70, 50):
            content = jpeg(picture, quality)
            if len(content) <= most_bytes:
                return content
        # bytes go with pixels: the half of what is left to go, and a little less
        factor = min(0.8, max(0.25, 0.95 * (most_bytes / len(content)) ** 0.5))
        size = max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return None


def headline(prediction: Prediction) -> str:
    """Say the decision in a few words."""
    words = [prediction.verdict.replace("_", " ").upper()]
    if prediction.label is not None:
        words.append(prediction.label)
    if prediction.score is not None:
        words.append(_score(prediction.score, known=prediction.label is not None or prediction.score <= 1))
    return " ".join(words)


def _score(score: float, *, known: bool) -> str:
    return f"{score:.2f}" if known else f"x{score:.2f}"


def _sized(frame: Picture, largest: int) -> Picture:
    """Bring a frame to a size that can be looked at; always a copy."""
    import cv2

    height, width = frame.shape[:2]
    side = max(height, width)
    if side > largest:
        size = max(1, round(width * largest / side)), max(1, round(height * largest / side))
        return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    factor = min(-(-_SMALLEST // side), largest // side)
    if factor > 1:
        size = width * factor, height * factor
        return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
    return np.array(frame, dtype=np.uint8)


def _heated(picture: Picture, heat: Heat, scale: tuple[float, float]) -> Picture:
    """Blend the map over what the model sees of the frame."""
    import cv2

    view = heat.view
    a, d = scale[0] / view.scale[0], scale[1] / view.scale[1]
    # warpAffine counts from the middles of pixels, views from their corners
    matrix = np.array(
        [[a, 0, 0.5 * a - view.shift[0] * a - 0.5], [0, d, 0.5 * d - view.shift[1] * d - 0.5]], dtype=np.float64
    )
    size = picture.shape[1], picture.shape[0]
    spread = cv2.warpAffine(heat.values, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    steps = np.clip(np.asarray(spread) * (255 / _STOPS[-1]), 0, 255).astype(np.uint8)
    levels = np.linspace(0, _STOPS[-1], 256)
    colours = np.stack([np.interp(levels, _STOPS, [one[i] for one in _COLOURS]) for i in range(3)], axis=1)
    opaque = np.interp(levels, _STOPS, _OPAQUE).astype(np.float32)[:, None]
    over, share = (colours * opaque).astype(np.float32), 1 - opaque
    left, top, right, bottom = (
        round(edge * factor) for edge, factor in zip(heat.region, (*scale, *scale), strict=True)
    )
    where = slice(top, max(top + 1, bottom)), slice(left, max(left + 1, right))
    inside = steps[where]
    blended = picture[where].astype(np.float32) * share[inside] + over[inside]
    picture[where] = np.clip(np.rint(blended), 0, 255).astype(np.uint8)
    return picture


def _outline(picture: Picture, heat: Heat, marks: tuple[Mark, ...], scale: tuple[float, float], weight: int) -> None:
    """Draw around what is marked; what was left out as too small is coloured only."""
    import cv2

    lines = [
        np.rint(points * scale).astype(np.int32).reshape(-1, 1, 2)
        for points in outlines(heat.values, 1.0, heat.view, heat.region)
        if len(marks) >= MOST_MARKS or any(_holds(mark, points) for mark in marks)
    ]
    cv2.polylines(picture, lines, True, _BLACK, weight + 2, cv2.LINE_AA)
    cv2.polylines(picture, lines, True, _WHITE, weight, cv2.LINE_AA)


def _holds(mark: Mark, points: NDArray[np.float64]) -> bool:
    x, y = points.min(axis=0) / 2 + points.max(axis=0) / 2
    return bool(mark.left <= x <= mark.right and mark.top <= y <= mark.bottom)


def _corners(mark: Mark, scale: tuple[float, float]) -> tuple[tuple[int, int], tuple[int, int]]:
    low = round(mark.left * scale[0]), round(mark.top * scale[1])
    return low, (round(mark.right * scale[0]), round(mark.bottom * scale[1]))


def _box(picture: Picture, mark: Mark, scale: tuple[float, float], weight: int) -> None:
    import cv2

    low, high = _corners(mark, scale)
    cv2.rectangle(picture, low, high, _BLACK, weight + 2)
    cv2.rectangle(picture, low, high, _WHITE, weight)


def _name(picture: Picture, mark: Mark, scale: tuple[float, float], weight: int) -> None:
    words = [mark.label or "", _score(mark.score, known=mark.label is not None)]
    if mark.length_mm is not None:
        words.append(f"{mark.length_mm:.3g} mm")
    low, high = _corners(mark, scale)
    tall = 14 * weight + 8
    _say(picture, " ".join(filter(None, words)), (low[0], low[1] - tall if low[1] >= tall else high[1]), _BLACK, weight)


def _say(picture: Picture, words: str, at: tuple[int, int], colour: Colour, weight: int, *, size: float = 0.45) -> None:
    """Write on a field of its own, moved into the picture."""
    import cv2

    words, face, size = _spelt(words), cv2.FONT_HERSHEY_SIMPLEX, size * weight
    (wide, tall), base = cv2.getTextSize(words, face, size, weight)
    height, width = picture.shape[:2]
    left = max(0, min(at[0], width - wide - 6))
    top = max(0, min(at[1], height - tall - base - 6))
    cv2.rectangle(picture, (left, top), (left + wide + 6, top + tall + base + 4), colour, cv2.FILLED)
    cv2.putText(picture, words, (left + 3, top + tall + 3), face, size, _WHITE, weight, cv2.LINE_AA)


def _spelt(words: str) -> str:
    """Spell in ASCII what OpenCV's letters can write; what remains becomes a question mark."""
    words = "".join(_SPELT.get(letter, letter) for letter in words)
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", words) if not unicodedata.combining(letter))
    return "".join(letter if " " <= letter <= "~" else "?" for letter in plain)


def _scale_bar(picture: Picture, mm_per_pixel: float, weight: int) -> None:
    """Draw a bar of a round length, about a fifth of the picture's width, in its lower left corner."""
    import cv2

    height, width = picture.shape[:2]
    length = _round_length(mm_per_pixel * width / 5)
    left, bottom = 8 * weight, height - 8 * weight
    right = left + max(2, round(length / mm_per_pixel))
    for colour, thick in ((_BLACK, 4 * weight), (_WHITE, 2 * weight)):
        cv2.line(picture, (left, bottom), (right, bottom), colour, thick)
    _say(picture, f"{length:g} mm", (left, bottom - 22 * weight), _BLACK, weight)


def _round_length(about: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is not above."""
    power = 10.0 ** np.floor(np.log10(about))
    return float(max(step * power for step in (1, 2, 5) if step * power <= about * (1 + 1e-9)))

"""From a map to marks: connected regions of an anomaly map, connected parts of a segmentation.

A map is coarser than the frame. It is enlarged first, by a whole odd factor: the middle of a cell then stays where it
is and keeps its value, so a region's peak is the map's, a single cell over the threshold is a region, and outlines are
smooth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sft.prediction import MOST_MARKS, Mark
from edge_sft.preprocess.tiling import View

Floats = NDArray[np.float32]
Box = tuple[float, float, float, float]

_MOST_CELLS = 1 << 20  # of an enlarged map: 15 ms to label
_FINEST = 7  # times
_MOST_MEASURED = 1000  # regions whose length is measured: the highest; of a map of noise there are thousands


@dataclass(frozen=True)
class Ruler:
    """How large things are, and where in the frame the model looked.

    Attributes:
        view: How the frame lies in the map: cell = frame x scale + shift.
        region: What of the frame the model sees: left, top, right, bottom, pixels.
        mm_per_pixel: Of the frame; None where nobody measured it.
    """

    view: View
    region: tuple[int, int, int, int]
    mm_per_pixel: float | None = None

    @property
    def cell_px(self) -> float:
        """Pixels of the frame that one cell covers."""
        return 1.0 / (self.view.scale[0] * self.view.scale[1])

    def finer(self, factor: int) -> Ruler:
        """Return the ruler of the map enlarged by a factor."""
        scale, shift = self.view.scale, self.view.shift
        view = View((scale[0] * factor, scale[1] * factor), (shift[0] * factor, shift[1] * factor))
        return Ruler(view, self.region, self.mm_per_pixel)

    def to_frame(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Move points [n,2] (x, y) from the map to the frame."""
        return np.asarray((points - self.view.shift) / self.view.scale)

    def inside(self, shape: tuple[int, int]) -> tuple[slice, slice]:
        """Return the rows and columns of a map whose middles lie in what the model sees."""
        left, top, right, bottom = self.region
        x = np.array([left, right]) * self.view.scale[0] + self.view.shift[0]
        y = np.array([top, bottom]) * self.view.scale[1] + self.view.shift[1]
        return _middles(y, shape[0]), _middles(x, shape[1])


@dataclass(frozen=True)
class Least:
    """Smaller regions are left out; 0 and None leave none out."""

    area_px: float = 0.0
    area_mm2: float | None = None
    length_mm: float | None = None


def regions(
    heat: Floats, threshold: float, ruler: Ruler, *, least: Least | None = None, most: int = MOST_MARKS
) -> tuple[list[Mark], int]:
    """Mark the connected regions (diagonal neighbours belong together) of an anomaly map at or above a threshold.

    Args:
        heat: [h,w], finite.
        threshold: Of its cells; a mark's score is its peak in shares of this.
        ruler: How the frame lies in the map.
        least: Smaller ones are left out.
        most: How many marks, the highest peaks.

    Returns:
        Marks in falling order of score, and how many regions there were.
    """
    fine, finer = _enlarged(heat, ruler)
    mask = _seen(fine >= threshold, finer)
    found = _components(mask, fine, finer, None, least or Least())
    return [one.mark(finer, scale=1 / threshold) for one in found[:most]], len(found)


def parts(
    probabilities: Floats,
    labels: Sequence[str],
    ok_labels: Sequence[str],
    threshold: float,
    ruler: Ruler,
    *,
    least: Least | None = None,
    most: int = MOST_MARKS,
) -> tuple[list[Mark], int]:
    """Mark the connected parts of the defects' labels in a segmentation.

    A cell belongs to a defect where the defects' probabilities add up to the threshold, and to the likeliest of
    them; a mark's score is the highest such sum in it.

    Args:
        probabilities: [K,h,w], finite.
        labels: K of them.
        ok_labels: Those that are no defect.
        threshold: Of a cell.
        ruler: How the frame lies in the map.
        least: Smaller ones are left out.
        most: How many marks, the highest.

    Returns:
        Marks in falling order of score, and how many parts there were.
    """
    total, label = _of_defects(probabilities, labels, ok_labels, ruler)
    finer = ruler.finer(total.shape[0] // probabilities.shape[1])
    mask = _seen(total >= threshold, finer)
    found: list[_Region] = []
    for index in sorted(set(np.unique(label[mask > 0]).tolist())):
        found += _components(mask * (label == index), total, finer, labels[index], least or Least())
    found.sort(key=lambda one: -one.peak)
    return [one.mark(finer, scale=1.0) for one in found[:most]], len(found)


def outlines(
    heat: Floats, threshold: float, view: View, region: tuple[int, int, int, int]
) -> list[NDArray[np.float64]]:
    """Return the outlines of what is at or above a threshold, each as points [n,2] (x, y) of the frame."""
    import cv2

    fine, finer = _enlarged(heat, Ruler(view, region))
    mask = _seen(fine >= threshold, finer)
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [finer.to_frame(contour.reshape(-1, 2).astype(np.float64) + 0.5) for contour in found]


@dataclass(frozen=True)
class _Region:
    """A connected region: its peak and size, and its mask in its own box; left and top are cells of the map."""

    peak: float
    cells: int
    left: int
    top: int
    mask: NDArray[np.uint8]
    label: str | None
    length_mm: float | None

    def mark(self, ruler: Ruler, *, scale: float) -> Mark:
        height, width = self.mask.shape
        corners = np.array([[self.left, self.top], [self.left + width, self.top + height]], dtype=np.float64)
        low, high = np.clip(ruler.to_frame(corners), ruler.region[:2], ruler.region[2:]).round(2).tolist()
        area = self.cells * ruler.cell_px
        square_mm = None if ruler.mm_per_pixel is None else _short(area * ruler.mm_per_pixel**2)
        return Mark(
            label=self.label,
            score=_short(self.peak * scale),
            left=low[0],
            top=low[1],
            right=high[0],
            bottom=high[1],
            area_px=_short(area),
            area_mm2=square_mm,
            length_mm=None if self.length_mm is None else _short(self.length_mm),
        )


def _components(
    mask: NDArray[np.uint8], values: Floats, ruler: Ruler, label: str | None, least: Least
) -> list[_Region]:
    """Return the connected regions of a mask that are large enough, highest peak first."""
    import cv2

    count, given, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    numbers = np.asarray(given, dtype=np.int32)
    cells = stats[:, cv2.CC_STAT_AREA]
    smallest = max(least.area_px, _in_pixels(least.area_mm2, ruler)) / ruler.cell_px
    peaks = _peaks(numbers, values, count)
    chosen = [index for index in np.argsort(-peaks, kind="stable").tolist() if index and cells[index] >= smallest]
    found = []
    for rank, index in enumerate(chosen):
        left, top, width, height = (int(value) for value in stats[index, :4])
        own = (numbers[top : top + height, left : left + width] == index).astype(np.uint8)
        length = _length_mm(own, left, top, ruler) if rank < _MOST_MEASURED else None
        if length is None or least.length_mm is None or length >= least.length_mm:
            found.append(_Region(float(peaks[index]), int(cells[index]), left, top, own, label, length))
    return found


def _peaks(numbers: NDArray[np.int32], values: Floats, count: int) -> NDArray[np.float64]:
    """Return the highest value of each region, [count]; region 0 is the rest."""
    where = np.flatnonzero(numbers)
    peaks = np.full(count, -np.inf)
    np.maximum.at(peaks, numbers.reshape(-1)[where], values.reshape(-1)[where])
    return peaks


def _length_mm(mask: NDArray[np.uint8], left: int, top: int, ruler: Ruler) -> float | None:
    """Return the longer side of the smallest rectangle, however turned, around a region."""
    import cv2

    if ruler.mm_per_pixel is None:
        return None
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cells = np.concatenate(contours).reshape(-1, 2) + np.array([left, top], dtype=np.float64)
    corners = np.concatenate([cells + corner for corner in ((0, 0), (0, 1), (1, 0), (1, 1))])
    sides = cv2.minAreaRect(ruler.to_frame(corners).astype(np.float32))[1]
    return float(max(sides)) * ruler.mm_per_pixel


def _enlarged(heat: Floats, ruler: Ruler) -> tuple[Floats, Ruler]:
    factor = _factor(heat.shape, ruler)
    return _resized(heat, factor), ruler.finer(factor)


def _factor(shape: tuple[int, ...], ruler: Ruler) -> int:
    """Return by how much a map is enlarged: until a cell is a pixel of the frame, or the map as large as is allowed."""
    allowed = (_MOST_CELLS / (shape[-2] * shape[-1])) ** 0.5
    useful = 1 / max(ruler.view.scale)
    factor = int(min(allowed, useful, _FINEST))
    return max(1, factor - (factor + 1) % 2)  # odd


def _resized(heat: Floats, factor: int) -> Floats:
    import cv2

    if factor == 1:
        return np.asarray(heat, dtype=np.float32)
    size = heat.shape[1] * factor, heat.shape[0] * factor
    return np.asarray(cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _of_defects(
    probabilities: Floats, labels: Sequence[str], ok_labels: Sequence[str], ruler: Ruler
) -> tuple[Floats, NDArray[np.int16]]:
    """Return, enlarged, the sum of the defects' probabilities and which defect is likeliest; a label at a time."""
    factor = _factor(probabilities.shape, ruler)
    defects = [index for index, label in enumerate(labels) if label not in ok_labels]
    shape = probabilities.shape[1] * factor, probabilities.shape[2] * factor
    total, best = np.zeros(shape, np.float32), np.full(shape, -1.0, np.float32)
    label = np.zeros(shape, np.int16)
    for index in defects:
        one = _resized(probabilities[index], factor)
        total += one
        label[one > best] = index
        np.maximum(best, one, out=best)
    return np.minimum(total, np.float32(1)), label


def _seen(mask: NDArray[np.bool_], ruler: Ruler) -> NDArray[np.uint8]:
    """Keep what lies in the frame: borders, and mirrored margins of the last tiles, are no places."""
    rows, columns = ruler.inside((mask.shape[0], mask.shape[1]))
    kept = np.zeros(mask.shape, np.uint8)
    kept[rows, columns] = mask[rows, columns]
    return kept


def _middles(ends: NDArray[np.float64], cells: int) -> slice:
    first, last = (int(np.ceil(end - 0.5 - 1e-6)) for end in ends)
    return slice(max(0, first), min(cells, max(first, last)))


def _in_pixels(square_mm: float | None, ruler: Ruler) -> float:
    return 0.0 if square_mm is None or ruler.mm_per_pixel is None else square_mm / ruler.mm_per_pixel**2


def _short(value: float) -> float:
    """Round to what a measurement may mean; a message carries a hundred marks."""
    return float(f"{value:.5g}")

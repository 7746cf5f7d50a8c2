"""How the pictures are spread: sizes, brightness, contrast, focus. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.dataset import Dataset, Item, PictureFacts
from edge_sft.data.findings import Format, Spread

_FAR = 6.0  # robust standard deviations: one of a billion in a bell curve, so even skewed data names few
_BINS = 20
_NAMED = 50  # outliers kept a statistic
_LEAST = 20  # with fewer pictures nothing is unusual

_MEASURES: dict[str, tuple[str, Callable[[PictureFacts], float]]] = {
    "width": ("pixels", lambda fact: float(fact.width)),
    "height": ("pixels", lambda fact: float(fact.height)),
    "brightness": ("of 255", lambda fact: fact.mean),
    "contrast": ("of 255", lambda fact: fact.contrast),
    "focus": ("variance of the Laplacian", lambda fact: fact.focus),
}
_FLOOR = {"width": 0.1, "height": 0.1, "brightness": 2.0, "contrast": 1.0, "focus": 0.1}  # smallest deviation


def spreads(dataset: Dataset) -> tuple[Spread, ...]:
    """Describe each statistic, with the pictures that are far from all others."""
    return tuple(
        _spread(name, unit, dataset.items, np.array([measure(fact) for fact in dataset.facts]))
        for name, (unit, measure) in _MEASURES.items()
    )


def formats(facts: Sequence[PictureFacts]) -> tuple[Format, ...]:
    """Count the kinds of file content, the most frequent first."""
    kinds = Counter((fact.width, fact.height, fact.channels, fact.bits) for fact in facts)
    return tuple(Format(*kind, count=count) for kind, count in sorted(kinds.items(), key=lambda k: (-k[1], k[0])))


def _spread(name: str, unit: str, items: Sequence[Item], values: NDArray[np.float64]) -> Spread:
    low, middle, high = (float(value) for value in np.percentile(values, (1, 50, 99)))
    counts, _ = np.histogram(values, bins=_BINS)
    distance = _distance(np.log1p(values) if name in {"width", "height", "focus"} else values, _FLOOR[name])
    far = np.flatnonzero(distance > _FAR) if len(values) >= _LEAST else np.array([], dtype=np.int64)
    far = far[np.argsort(-distance[far], kind="stable")][:_NAMED]
    return Spread(
        name=name,
        unit=unit,
        low=low,
        median=middle,
        high=high,
        smallest=float(values.min()),
        largest=float(values.max()),
        histogram=tuple(int(count) for count in counts),
        outliers=tuple((items[i].id, float(values[i])) for i in far),
    )


def _distance(values: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """Return distances from the median in robust standard deviations, each side with its own (data are skewed)."""
    offset = values - np.median(values)
    below = 1.4826 * float(np.median(-offset[offset <= 0]))
    above = 1.4826 * float(np.median(offset[offset >= 0]))
    return np.asarray(np.where(offset < 0, -offset / max(below, floor), offset / max(above, floor)), dtype=np.float64)

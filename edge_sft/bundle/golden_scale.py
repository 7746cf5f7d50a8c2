"""In what an output's differences are counted: makers set tolerances in it, devices compare in it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHARES = ("probabilities", "contributions")  # their scale is 1 by what they are


def output_scale(name: str, values: NDArray[Any]) -> float:
    """Return the scale of an output: 1 for probabilities, else the largest magnitude among finite ``values``.

    Args:
        name: The output's name in the graph.
        values: What is expected of it, over all samples at hand.
    """
    if name in _SHARES:
        return 1.0
    finite = np.abs(values[np.isfinite(values)])
    return max(float(finite.max(initial=0.0)), 1e-12)

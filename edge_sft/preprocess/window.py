"""Window: what a sensor model sees of one asset at one time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """A window, ready for the graph once a batch axis is put before it.

    Attributes:
        asset: Whose it is.
        end: Time of its last grid step, in the source's clock and the time column's unit.
        values: float32 [T, C], always finite; 0 where not valid.
        valid: float32 [T, C], 1 or 0.
    """

    asset: str
    end: float
    values: NDArray[np.float32]
    valid: NDArray[np.float32]

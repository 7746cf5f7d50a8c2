"""What the rows of an anomaly model's ``bank`` are: shared by the graph and by who makes one, with torch or without.

Rows of D numbers: the basis [E] that reduces a place's features, the places' centres [P], their whitening matrices
[P·D], the examples [M], and one row of scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Singles = NDArray[np.float32]

# Of a picture's places the highest 2 % make its score: one noisy place is no defect, and a small defect is not averaged
# away. Validation AUROC of four public sets is within .01 from 1 place to 5 %.
TOP_SHARE = 0.02
# Directions that are kept: fewer lose thermal pictures, more lose tiles.
KEPT = 96


@dataclass(frozen=True)
class Layout:
    """Sizes of a bank.

    Attributes:
        places: P, cells of the map.
        features: E, numbers of a place as the graph tells them.
        width: D, numbers that are kept of them.
        examples: M.
    """

    places: int
    features: int
    width: int
    examples: int

    @property
    def rows(self) -> int:
        """Rows of the bank."""
        return self.features + self.places + self.places * self.width + self.examples + 1

    def cut(self, bank: Singles) -> tuple[Singles, Singles, Singles, Singles, Singles]:
        """Return basis [E,D], centres [P,D], whitening [P,D,D], examples [M,D], scales [D]."""
        ends = np.cumsum([self.features, self.places, self.places * self.width, self.examples])
        basis, centres, whitening, examples, scales = np.split(bank, ends)
        return basis, centres, whitening.reshape(self.places, self.width, self.width), examples, scales[0]

    @classmethod
    def of(cls, features: int, places: int, examples: int) -> Layout:
        """Return the layout for a graph that tells so much."""
        return cls(places, features, min(features, KEPT), examples)


def top_count(places: int) -> int:
    """Return how many of so many places make a score."""
    return max(1, round(places * TOP_SHARE))

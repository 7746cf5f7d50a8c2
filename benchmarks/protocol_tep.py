"""Tennessee Eastman, Braatz's files: 52 variables every 3 minutes; training rows d00 (normal) and d01–d21 (faulty from
the first row), test rows d00_te (normal) and dNN_te (faulty from row 161 on).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "tep"
PERIOD_S = 180.0
FAULTS = tuple(range(1, 22))
ONSET = 160  # rows of a test file before its fault
CHANNELS = tuple(f"xmeas{i}" for i in range(1, 42)) + tuple(f"xmv{i}" for i in range(1, 12))

Rows = NDArray[np.float64]


def training(root: Path = SHARED) -> tuple[Rows, dict[int, Rows]]:
    """Return the normal rows, and the faulty ones of each fault: [n, 52]."""
    with np.load(root / "tep.npz") as archive:
        return archive["d00"].astype(np.float64), {k: archive[f"d{k:02d}"].astype(np.float64) for k in FAULTS}


def judged(root: Path = SHARED) -> tuple[Rows, dict[int, Rows]]:
    """Return the normal test rows, and those of each fault, 160 normal ones before it: [960, 52]."""
    with np.load(root / "tep.npz") as archive:
        return archive["d00_te"].astype(np.float64), {k: archive[f"d{k:02d}_te"].astype(np.float64) for k in FAULTS}


def times(count: int) -> NDArray[np.float64]:
    """Return the times of so many rows, s."""
    return np.arange(count) * PERIOD_S

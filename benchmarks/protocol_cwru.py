"""CWRU drive-end recordings at 12 kHz (60, three faults): whole bearings held out by fault size, and what leaks.

Sizes 7, 14 and 21 mil are each held out once; 28 mil, which has no outer-race fault, is always in training. A bearing
is one fault of one size (outer races were turned in their seat: three positions, one bearing). There is no healthy
recording at this rate for all loads, so the set sorts faults.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from edge_sft.data.sensors.dataset import Run

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "cwru"
FILE = "cwru_12k_loads0-3_DE_faults.npz"
LABELS = ("inner", "ball", "outer")
SIZES = (7, 14, 21)
RATE_HZ = 12_000
_KINDS = {"IR": 0, "B": 1, "OR": 2}


def recordings(root: Path = SHARED) -> tuple[Run, ...]:
    """All recordings, in training; ``values`` are acceleration and the shaft's speed as the file's name says it."""
    found = []
    with np.load(root / FILE, allow_pickle=False) as archive:
        for key in sorted(archive.files):
            match = re.fullmatch(r"(\d+)_(IR|B|OR)(@\d+)?_(\d+)_DE12", key)
            assert match is not None, key
            rpm, kind, _, size = match.groups()
            wave = archive[key].astype(np.float64)
            found.append(
                Run(
                    id=key,
                    group=f"{kind}_{size}",
                    asset=f"{kind}_{size}",
                    split="train",
                    time=np.arange(len(wave)) / RATE_HZ,
                    values=np.stack([wave, np.full(len(wave), float(rpm))], axis=1),
                    labels=np.full(len(wave), _KINDS[kind], dtype=np.int64),
                    sha256=hashlib.sha256(wave.tobytes()).hexdigest(),
                )
            )
    return tuple(found)


def size_of(run: Run) -> int:
    return int(run.group.rpartition("_")[2])

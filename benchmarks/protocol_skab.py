"""SKAB's own protocol: 34 files, the first 400 rows of each are the machine's commissioning, the rest is judged.

The data are GPL-3.0 and are read from ../shared/data or from a folder given; nothing of them is kept here.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "skab"
HEAD = 400
CHANNELS = (
    "Accelerometer1RMS", "Accelerometer2RMS", "Current", "Pressure", "Temperature", "Thermocouple", "Voltage",
    "Volume Flow RateRMS",
)  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """One file. ``time`` float64 [n] in seconds, ``values`` float64 [n, 8], ``label`` int64 [n] (1 = anomaly)."""

    name: str
    time: NDArray[np.float64]
    values: NDArray[np.float64]
    label: NDArray[np.int64]

    def head(self) -> Experiment:
        """What the protocol gives for training."""
        return Experiment(self.name, self.time[:HEAD], self.values[:HEAD], self.label[:HEAD])


def experiments(root: Path = SHARED) -> list[Experiment]:
    """Read the 34 files with anomalies, in order of their names."""
    paths = [path for folder in ("valve1", "valve2", "other") for path in (root / folder).glob("*.csv")]
    return [read(path) for path in sorted(paths, key=lambda path: (path.parent.name, int(path.stem)))]


def healthy_day(root: Path = SHARED) -> Experiment:
    """Read the day without anomalies; configurations are chosen on it and on the heads."""
    return read(root / "anomaly-free" / "anomaly-free.csv")


def read(path: Path) -> Experiment:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    time = [datetime.fromisoformat(row["datetime"]).replace(tzinfo=timezone.utc).timestamp() for row in rows]
    values = [[float(row[name]) for name in CHANNELS] for row in rows]
    label = [int(float(row.get("anomaly") or 0)) for row in rows]
    name = f"{path.parent.name}/{path.stem}"
    return Experiment(name, np.array(time), np.array(values), np.array(label, dtype=np.int64))

"""Small plants in the public data sets' formats: engines that wear, a process that drifts, bearings that knock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SHAFT_RPM = 1797
_RATE_HZ = 12_000
_ORDERS = {"IR": 5.415, "OR": 3.585, "B": 4.714}


def turbofan(folder: Path, *, engines: int = 14, seed: int = 0) -> Path:
    """train_FD001.txt, test_FD001.txt, RUL_FD001.txt as NASA writes them: space between, no header."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lives = []
    for side, count in (("train", engines), ("test", engines // 2)):
        lines = []
        for unit in range(1, count + 1):
            life = int(random.integers(70, 130))
            cycles = life if side == "train" else int(random.integers(45, life - 5))
            if side == "test":
                lives.append(life - cycles)
            wear = np.exp((np.arange(cycles) - life) / 15.0)
            sensors = random.normal(0, 0.05, (cycles, 21)) + np.linspace(-1, 1, 21) * wear[:, None] + 10
            settings = random.normal(0, 0.001, (cycles, 3))
            for cycle, row in enumerate(np.column_stack([settings, sensors]), start=1):
                lines.append(" ".join([str(unit), str(cycle), *(f"{value:.4f}" for value in row)]))
        (folder / f"{side}_FD001.txt").write_text("\n".join(lines) + "\n")
    (folder / "RUL_FD001.txt").write_text("\n".join(str(life) for life in lives) + "\n")
    return folder


def process(folder: Path, *, rows: int = 500, seed: int = 0) -> Path:
    """tep.npz: 22 runs of 52 channels, a fault from row 160 on."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    mixing = random.normal(0, 1, (6, 52))

    def run(fault: int) -> NDArray[np.float64]:
        hidden = np.cumsum(random.normal(0, 0.1, (rows, 6)), axis=0) * 0.2 + random.normal(0, 1, (rows, 6))
        values = hidden @ mixing + random.normal(0, 0.3, (rows, 52)) + np.arange(52)
        if fault:
            values[160:, fault : fault + 3] += 8.0
        return values

    runs = {f"d{number:02d}_te": run(number) for number in range(22)}
    np.savez(folder / "tep.npz", d00=run(0), **runs)
    return folder


def bearing(folder: Path, *, seconds: float = 1.5, seed: int = 0) -> Path:
    """12 kHz recordings of three faults in three sizes at two loads, keyed like 1797_IR_7_DE12."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    recordings = {}
    for fault, order in _ORDERS.items():
        for size in (7, 14, 21):
            for rpm in (_SHAFT_RPM, 1730):
                name = f"{rpm}_{'OR@6' if fault == 'OR' else fault}_{size}_DE12"
                recordings[name] = knocking(random, order, rpm, seconds)
    np.savez(folder / "cwru.npz", **recordings)
    return folder


def knocking(random: np.random.Generator, order: float, rpm: float, seconds: float) -> NDArray[np.float64]:
    """A ring at 3 kHz each time the damage is rolled over, in noise."""
    time = np.arange(int(seconds * _RATE_HZ)) / _RATE_HZ
    since = np.mod(time, 60.0 / rpm / order)
    return np.asarray(np.exp(-since * 900) * np.sin(2 * np.pi * 3000 * since) + random.normal(0, 0.15, len(time)))

"""Windows that export looks at: chosen evenly over the runs, never from test, held as model inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.errors import DataError
from edge_sft.export.running import Arrays
from edge_sft.preprocess import Windowing
from edge_sft.preprocess.cutting import cut, ends_of
from edge_sft.preprocess.gridding import grid_run
from edge_sft.progress import Progress

# Bounds on what is held in memory and on the time of a gate: 2,000 windows resolve 0.05 points.
_MOST_WINDOWS = 2000
_MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Shown:
    """Model inputs with what is known of each; N windows.

    Attributes:
        window: float32 [N,T,C].
        valid: float32 [N,T,C] in {0, 1}.
        local: What is local to a machine, by the graph's name; the same for all windows.
        label: Label of the newest row that each window saw, int64 [N], -1 = unknown.
        rul: Remaining life there, float64 [N], not capped, NaN = unknown.
        run: Name of each window's run.
    """

    window: NDArray[np.float32]
    valid: NDArray[np.float32]
    local: Arrays
    label: NDArray[np.int64]
    rul: NDArray[np.float64]
    run: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.run)

    def take(self, indices: NDArray[np.int64] | list[int]) -> Shown:
        """Return the windows at these positions."""
        chosen = np.asarray(indices, dtype=np.int64)
        names = tuple(self.run[place] for place in chosen)
        picked = (self.window[chosen], self.valid[chosen], self.local, self.label[chosen], self.rul[chosen])
        return Shown(*picked, names)

    def blocks(self, size: int) -> Iterator[Arrays]:
        """Yield all graph inputs by name, at most ``size`` windows at a time."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield {"window": self.window[part], "valid": self.valid[part], **self.local}


def validation(dataset: SensorDataset, windowing: Windowing, local: Arrays, progress: Progress) -> Shown:
    """Cut windows of the validation runs; of long ones, as many as memory and time allow, evenly over each run.

    Raises:
        DataError: There are no validation runs, or they hold no window.
    """
    runs = dataset.split("val")
    if not runs:
        raise DataError(
            str(dataset.root),
            "has no validation runs, so no exported variant can be proved",
            "Give data.split.val a share, or add machines.",
        )
    return _cut(runs, windowing, local, _affordable(windowing), progress, "Cutting validation windows")


def for_ranges(dataset: SensorDataset, windowing: Windowing, local: Arrays, count: int, progress: Progress) -> Shown:
    """Cut training windows for quantization ranges. Raises DataError when there are none."""
    most = min(count, _affordable(windowing))
    return _cut(dataset.split("train"), windowing, local, most, progress, "Cutting windows for quantization ranges")


def _cut(
    runs: tuple[Run, ...], windowing: Windowing, local: Arrays, most: int, progress: Progress, title: str
) -> Shown:
    progress.start(title, len(runs))
    grids = [grid_run(windowing, run.time, run.values) for run in runs]
    ends = [ends_of(windowing, grid) for grid in grids]
    kept = [
        rows[spread(len(rows), share)] for rows, share in zip(ends, shares([len(e) for e in ends], most), strict=True)
    ]
    if not sum(map(len, kept)):
        raise DataError(
            runs[0].id if runs else "the data",
            "and the other runs of its split give no window",
            "Lower window.length or window.min_valid, or look at what `edge-sft check` says.",
        )
    parts, labels, lives, names = [], [], [], []
    for run, grid, rows in zip(runs, grids, kept, strict=True):
        parts.append(cut(windowing, grid, rows))
        newest = run.newest(grid.time[rows])
        labels.append(np.full(len(rows), -1) if run.labels is None else run.labels[newest])
        lives.append(np.full(len(rows), np.nan) if run.rul is None else run.rul[newest])
        names += [run.id] * len(rows)
        progress.advance()
    return Shown(
        window=np.concatenate([values for values, _ in parts]),
        valid=np.concatenate([valid for _, valid in parts]),
        local=local,
        label=np.concatenate(labels).astype(np.int64),
        rul=np.concatenate(lives).astype(np.float64),
        run=tuple(names),
    )


def shares(lengths: list[int], most: int) -> list[int]:
    """Return how many of each run's windows to take: as even as they are long enough, ``most`` together."""
    left, result = most, [0] * len(lengths)
    for done, place in enumerate(sorted(range(len(lengths)), key=lambda place: lengths[place])):
        result[place] = min(lengths[place], left // (len(lengths) - done))
        left -= result[place]
    return result


def spread(length: int, count: int) -> NDArray[np.int64]:
    """Return ``count`` positions of ``length``, evenly, both ends among them."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(np.int64))


def _affordable(windowing: Windowing) -> int:
    size = windowing.length * len(windowing.names) * 8  # values and validity, float32
    return max(32, min(_MOST_WINDOWS, _MOST_BYTES // size))

"""Quantization ranges: which interval of each activation int8 must cover, from real pictures.

One pass over the pictures keeps, for every float tensor, its exact minimum and maximum and a histogram of its
magnitudes; all methods are then read off the histograms, so trying another method costs no inference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import DeviceError
from edge_sft.progress import Progress

if TYPE_CHECKING:
    import onnx

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")
Ranges = dict[str, tuple[float, float]]

_BINS = 2048
_SAMPLED = 1 << 14  # values of one tensor and picture that enter its histogram; extremes are always exact
_PERCENTILE = 99.99
_LEVELS = 128  # of int8 magnitudes


@dataclass
class Observed:
    """What was seen of one tensor: extremes, counts of |value| in equal bins from 0 to ``edge``, channel sums."""

    low: float
    high: float
    edge: float
    counts: NDArray[np.int64]
    sums: NDArray[np.float64] | None = None
    pictures: int = 0

    @classmethod
    def nothing(cls) -> Observed:
        """Start before the first picture."""
        return cls(float("inf"), float("-inf"), 0.0, np.zeros(_BINS, dtype=np.int64))

    def add(self, values: NDArray[Any]) -> None:
        """Take in one picture's values [1,C,…]; the histogram's edge doubles as often as needed."""
        if values.ndim in (2, 3, 4):
            means = values.mean(axis=(0, *range(2, values.ndim)), dtype=np.float64)
            self.sums = means if self.sums is None else self.sums + means
            self.pictures += 1
        flat = values.reshape(-1)
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        largest = max(abs(self.low), abs(self.high))
        if not np.isfinite(largest) or largest == 0.0:
            return
        if self.edge == 0.0:
            self.edge = largest
        while self.edge < largest:
            halved = self.counts.reshape(_BINS // 2, 2).sum(axis=1)
            self.counts, self.edge = np.concatenate([halved, np.zeros_like(halved)]), self.edge * 2
        sampled = np.abs(flat[:: max(1, flat.size // _SAMPLED)])
        bins = np.minimum((sampled * (_BINS / self.edge)).astype(np.int64), _BINS - 1)
        self.counts += np.bincount(bins, minlength=_BINS)


def observe(
    model: onnx.ModelProto, blocks: Iterable[NDArray[Any] | dict[str, NDArray[Any]]], count: int, progress: Progress
) -> dict[str, Observed]:
    """Run samples through a graph and watch every float tensor in it.

    Args:
        model: Preprocessed float graph, shapes inferred.
        blocks: One sample each with its batch axis: an array for the first input, or all inputs by name.
        count: Number of blocks, for progress.
        progress: Told about each.

    Raises:
        DeviceError: A tensor holds values that are not finite.
    """
    session, names = _watching(model)
    feed = session.get_inputs()[0].name
    seen = {name: Observed.nothing() for name in names}
    progress.start("Measuring quantization ranges", count)
    for block in blocks:
        inputs = block if isinstance(block, dict) else {feed: block}
        for name, values in zip(names, session.run(names, inputs), strict=True):
            seen[name].add(values)
        progress.advance()
    broken = [name for name, item in seen.items() if not np.isfinite([item.low, item.high]).all()]
    if broken:
        raise DeviceError(
            f"tensor '{broken[0]}'", "is not finite while measuring quantization ranges", "Check the fp32 gate first."
        )
    return seen


def ranges(seen: dict[str, Observed], method: Method) -> Ranges:
    """Return (low, high) of each tensor by one method."""
    return {name: _range(item, method) for name, item in seen.items()}


def means(seen: dict[str, Observed]) -> dict[str, NDArray[np.float32]]:
    """Return each tensor's average over pictures and places, [C]."""
    return {
        name: (item.sums / item.pictures).astype(np.float32) for name, item in seen.items() if item.sums is not None
    }


def _range(item: Observed, method: Method) -> tuple[float, float]:
    largest = max(abs(item.low), abs(item.high))
    if method == "minmax" or largest == 0.0:
        return item.low, item.high
    width = item.edge / _BINS
    bins = _percentile_bins(item.counts) if method == "percentile" else _entropy_bins(item.counts)
    limit = min(bins * width, largest)
    return max(item.low, -limit), min(item.high, limit)


def _percentile_bins(counts: NDArray[np.int64]) -> int:
    """Return how many bins hold the given percentage of the values."""
    return int(np.searchsorted(np.cumsum(counts), counts.sum() * (_PERCENTILE / 100))) + 1


def _entropy_bins(counts: NDArray[np.int64]) -> int:
    """Return the number of bins to keep whose 128-level version diverges least from the clipped histogram.

    Kullback-Leibler as in TensorRT's calibrator (Migacz 2017): what is cut off is added to the last kept bin of
    the reference, not of its quantized version; exact zeros (half of what follows a ReLU) do not count.
    """
    counts = np.concatenate([counts[1:2], counts[1:]])
    if not counts.any():
        return _BINS
    best, least = _BINS, float("inf")
    total = np.concatenate([[0], np.cumsum(counts)])
    for kept in range(_LEVELS, _BINS + 1, _LEVELS // 4):
        reference = counts[:kept].astype(np.float64)
        reference[-1] += total[-1] - total[kept]
        divergence = _divergence(reference, _coarsened(counts[:kept].astype(np.float64)))
        if divergence < least:
            best, least = kept, divergence
    return best


def _coarsened(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spread each of 128 levels' mass evenly over its non-empty bins."""
    level = np.arange(len(counts)) * _LEVELS // len(counts)
    filled = counts > 0
    mass = np.bincount(level, weights=counts, minlength=_LEVELS)
    occupied = np.bincount(level, weights=filled, minlength=_LEVELS)
    return np.where(filled, mass[level] / np.maximum(occupied[level], 1), 0.0)


def _divergence(reference: NDArray[np.float64], quantized: NDArray[np.float64]) -> float:
    p, q = reference / reference.sum(), quantized / max(quantized.sum(), 1.0)
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))))


def _watching(model: onnx.ModelProto) -> tuple[Any, list[str]]:
    """Open a session whose outputs are all float tensors of the graph."""
    import onnx
    import onnxruntime

    widened = onnx.ModelProto()
    widened.CopyFrom(model)
    outputs = {value.name for value in widened.graph.output}
    floats = [v for v in widened.graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    widened.graph.output.extend(value for value in floats if value.name not in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(widened.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session, [value.name for value in session.get_outputs()]

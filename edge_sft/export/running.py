"""Run an exported graph here, as a device would: ONNX Runtime on this machine's processor."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.engines.protocol import open_engine
from edge_sft.profile import Budgets, DeviceProfile
from edge_sft.progress import Progress

Arrays = dict[str, NDArray[Any]]

# Export gates accuracy; budgets are the device's.
HERE = DeviceProfile(
    name="export",
    title="the machine that exports",
    variants=("fp32", "fp16", "int8-trt", "int8-cpu"),
    budgets=Budgets(latency_p95_ms=1e9, memory_mb=1e9),
)


def features(model: Path, blocks: Iterable[Arrays], name: str, progress: Progress) -> NDArray[np.float16]:
    """Run blocks through a graph and keep one output in half precision, [N,…]: what may be too large otherwise."""
    told: list[NDArray[np.float16]] = []
    with open_engine(model, HERE) as engine:
        for block in blocks:
            told.append(engine.infer(block)[name].astype(np.float16))
            progress.advance(len(told[-1]))
    return np.concatenate(told)


def outputs(model: Path, blocks: Iterable[Arrays], progress: Progress | None = None) -> Arrays:
    """Run blocks of inputs (by graph name, batch axis first) through a graph.

    Args:
        model: The ONNX file.
        blocks: What it is fed; the first array of each block tells how many samples it holds.
        progress: Told about each block's samples.

    Returns:
        The graph's outputs by name, all blocks in one.

    Raises:
        DeviceError: The graph cannot run.
    """
    results: list[Arrays] = []
    with open_engine(model, HERE) as engine:
        for block in blocks:
            results.append(engine.infer(block))
            if progress:
                progress.advance(len(next(iter(block.values()))))
    return {name: np.concatenate([block[name] for block in results]) for name in results[0]}

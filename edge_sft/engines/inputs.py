"""What every engine asks of its inputs before a library sees them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import BugError

Shape = tuple["int | None", ...]  # None where the graph leaves an axis open (the batch)
Specs = dict[str, tuple["np.dtype[Any]", Shape]]


def check(
    inputs: dict[str, NDArray[Any]],
    specs: Specs,
    source: str,
    *,
    closed: bool,
    optional: Collection[str] = frozenset(),
) -> None:
    """Refuse inputs that do not fit the graph.

    Args:
        inputs: What was given.
        specs: All that the graph takes.
        source: The variant's file, for messages.
        closed: Whether the engine is.
        optional: Names among ``specs`` that have a default and may be left out.

    Raises:
        BugError: Missing or extra names, dtype, shape, or closed.
    """
    if closed:
        raise BugError(source, "was closed and asked to infer", "Please report it.")
    if inputs.keys() != specs.keys() and not specs.keys() - set(optional) <= inputs.keys() <= specs.keys():
        raise BugError(source, f"takes inputs {sorted(specs)}, was given {sorted(inputs)}", "Please report it.")
    for name, array in inputs.items():
        dtype, shape = specs[name]
        if not isinstance(array, np.ndarray) or array.dtype != dtype or not _fits(array.shape, shape):
            got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise BugError(source, f"takes '{name}' as {dtype} {_words(shape)}, was given {got}", "Please report it.")


def _fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(
        got >= 1 if want is None else got == want for got, want in zip(shape, wanted, strict=True)
    )


def _words(shape: Shape) -> str:
    return "(" + ", ".join("N" if axis is None else str(axis) for axis in shape) + ")"

"""Find an INT8 variant that passes its gate: ranges by the method that measures best, biases corrected, sensitive
layers left float where needed.

Bounded: three methods on a few validation samples; then at most five gated attempts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_sft.bundle.manifest import GateResult
from edge_sft.export import bias, quantize
from edge_sft.export.quantize import Int8Variant
from edge_sft.export.ranges import METHODS, Method, Observed, Ranges, means, ranges
from edge_sft.export.yardstick import Yardstick
from edge_sft.progress import Progress

if TYPE_CHECKING:
    import onnx

_FEW, _FEWEST = 48, 8  # validation samples that choose the method; that rank layers
_GROUPS = 16  # layers are ranked in at most this many groups, so that a deep network takes no longer
_FLOAT_GROUPS = (1, 2, 4, 8)  # how many groups, the most sensitive first, stay float in later attempts

Quantizer = Callable[["onnx.ModelProto", Ranges, Int8Variant, Collection[str]], "onnx.ModelProto"]


@dataclass(frozen=True)
class Source:
    """What both flavours are made from.

    Attributes:
        model: The prepared graph.
        seen: What was seen of its activations.
        never: Names of nodes that must stay float whatever they would gain.
        quantizer: Puts the Q/DQ nodes in; takes graph, ranges, flavour and nodes to keep float.
    """

    model: onnx.ModelProto
    seen: dict[str, Observed]
    never: frozenset[str] = frozenset()
    quantizer: Quantizer = quantize.quantized


def export_int8(
    variant: Int8Variant, source: Source, reference: Yardstick, out: Path, progress: Progress
) -> GateResult:
    """Write ``<out>/<variant>.onnx`` with the first set of float layers that passes the gate.

    Returns:
        The gate of what was written. When none passes it is the least bad one, and no file is left.
    """
    method = _best_method(variant, source, reference, progress)
    chosen = ranges(source.seen, method)
    attempts: list[GateResult] = []
    for keep_float in _exclusions(variant, source, chosen, reference, progress):
        note = f"ranges by {method}" + (f"; {len(keep_float)} layers kept float" if keep_float else "")
        note += f" (without: {attempts[0].note})" if keep_float else ""
        file = quantize.save(_made(variant, source, chosen, keep_float), variant, out)
        attempts.append(reference.prove(variant, file, progress, note))
        if attempts[-1].passed:
            return attempts[-1]
    (out / f"{variant}.onnx").unlink()
    return min(attempts, key=lambda gate: (gate.net_loss_points, gate.max_score_difference))


def _best_method(variant: Int8Variant, source: Source, reference: Yardstick, progress: Progress) -> Method:
    """Measure each method on a few pictures; the outputs nearest to the checkpoint's win."""
    few = reference.few(_FEW)
    progress.start(f"Choosing ranges for {variant}", len(METHODS))
    measured: dict[Method, float] = {}
    for method in METHODS:
        measured[method] = _distance(variant, source, ranges(source.seen, method), (), few)
        progress.advance(note=f"{method} {measured[method]:.4f}")
    return min(METHODS, key=lambda method: measured[method])


def _exclusions(
    variant: Int8Variant, source: Source, chosen: Ranges, reference: Yardstick, progress: Progress
) -> Iterator[list[str]]:
    """Yield layers to keep float, ever more of them: none, then the most sensitive groups."""
    yield []
    ranked = _by_sensitivity(variant, source, chosen, reference, progress)
    for count in _FLOAT_GROUPS:
        if count < len(ranked):
            yield sorted(name for group in ranked[:count] for name in group)


def _by_sensitivity(
    variant: Int8Variant, source: Source, chosen: Ranges, reference: Yardstick, progress: Progress
) -> list[list[str]]:
    """Quantize one group of neighbouring layers at a time; return the groups, the most harmful first."""
    layers = [name for name in quantize.layers(source.model) if name not in source.never]
    groups = [[str(name) for name in part] for part in np.array_split(layers, min(_GROUPS, len(layers)))]
    few = reference.few(_FEWEST)
    every = {node.name for node in source.model.graph.node}
    progress.start(f"Finding layers that suffer in {variant}", len(groups))
    harm: list[float] = []
    for group in groups:
        harm.append(_distance(variant, source, chosen, every - set(group), few))
        progress.advance(note=f"{group[0]} {harm[-1]:.4f}")
    return [groups[place] for place in np.argsort(harm, kind="stable")[::-1]]


def _distance(
    variant: Int8Variant, source: Source, chosen: Ranges, keep_float: Collection[str], few: Yardstick
) -> float:
    graph = _made(variant, source, chosen, keep_float)
    with tempfile.TemporaryDirectory() as scratch:
        return few.distance(quantize.save(graph, variant, Path(scratch)))


def _made(variant: Int8Variant, source: Source, chosen: Ranges, keep_float: Collection[str]) -> onnx.ModelProto:
    """Quantize once to learn how the weights are rounded, correct the biases, quantize for good."""
    keep_float = source.never.union(keep_float)
    first = source.quantizer(source.model, chosen, variant, keep_float)
    model = bias.corrected(source.model, first, means(source.seen))
    return source.quantizer(model, chosen, variant, keep_float)

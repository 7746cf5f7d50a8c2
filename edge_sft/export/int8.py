"""Find an INT8 variant that passes its gate: ranges by the method that measures best, biases corrected, sensitive
layers left float where needed; and where that is not enough, the network is fine-tuned under its own rounding.

Bounded: three methods on a few validation samples; then at most five gated attempts, and one more after fine-tuning.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_sft.bundle.manifest import GateResult
from edge_sft.export import bias, quantize
from edge_sft.export.quantize import Int8Variant
from edge_sft.export.ranges import METHODS, Method, Observed, Ranges, means, ranges
from edge_sft.export.running import Arrays
from edge_sft.export.yardstick import Yardstick
from edge_sft.progress import Progress

if TYPE_CHECKING:
    import onnx

_FEW, _FEWEST = 48, 8  # validation samples that choose the method; that rank layers
_GROUPS = 16  # layers are ranked in at most this many groups, so that a deep network takes no longer
_FLOAT_GROUPS = (1, 2, 4, 8)  # how many groups, the most sensitive first, stay float in later attempts
# More than this share of the layers in float, and INT8 is one in name: each border between float and INT8 is a pass
# over memory to convert, so little of the gain is left; the device refuses INT8 that is not faster. So tune instead.
_FLOAT_SHARE = 1 / 3

Quantizer = Callable[["onnx.ModelProto", Ranges, Int8Variant, Collection[str]], "onnx.ModelProto"]


@dataclass(frozen=True)
class Source:
    """What both flavours are made from.

    Attributes:
        model: The prepared graph.
        seen: What was seen of its activations.
        never: Names of nodes that must stay float whatever they would gain.
        quantizer: Puts the Q/DQ nodes in; takes graph, ranges, flavour and nodes to keep float.
        training: Reads training samples, the graph's inputs by name; None where fine-tuning is not wanted.
    """

    model: onnx.ModelProto
    seen: dict[str, Observed]
    never: frozenset[str] = frozenset()
    quantizer: Quantizer = quantize.quantized
    training: Callable[[Progress], Arrays] | None = None


@dataclass(frozen=True)
class _Attempt:
    gate: GateResult
    in_float: int


def export_int8(
    variant: Int8Variant, source: Source, reference: Yardstick, out: Path, progress: Progress
) -> GateResult:
    """Write ``<out>/<variant>.onnx``: the first set of float layers that passes the gate, or what fine-tuning saves.

    Returns:
        The gate of what was written. When none passes it is the least bad one, and no file is left.
    """
    method = _best_method(variant, source, reference, progress)
    chosen = ranges(source.seen, method)
    attempts: list[_Attempt] = []
    for keep_float in _exclusions(variant, source, chosen, reference, progress):
        note = f"ranges by {method}" + (f"; {len(keep_float)} layers kept float" if keep_float else "")
        note += f" (without: {attempts[0].gate.note})" if keep_float else ""
        file = quantize.save(_made(variant, source, chosen, keep_float), variant, out)
        attempts.append(_Attempt(reference.prove(variant, file, progress, note), len(keep_float)))
        if attempts[-1].gate.passed:
            break
    if source.training is not None and not _good_enough(attempts[-1], source):
        attempts = _fine_tuned(variant, source, chosen, reference, out, progress, attempts)
    if attempts[-1].gate.passed:
        return attempts[-1].gate
    (out / f"{variant}.onnx").unlink()
    return min((each.gate for each in attempts), key=lambda gate: (gate.net_loss_points, gate.max_score_difference))


def _good_enough(attempt: _Attempt, source: Source) -> bool:
    return attempt.gate.passed and attempt.in_float <= _FLOAT_SHARE * len(_quantizable(source))


def _fine_tuned(
    variant: Int8Variant,
    source: Source,
    chosen: Ranges,
    reference: Yardstick,
    out: Path,
    progress: Progress,
    attempts: list[_Attempt],
) -> list[_Attempt]:
    """Fine-tune with every layer in INT8 and have the gate judge it.

    Returns:
        The attempts; last the one whose file lies there: the fine-tuned one if it passed, else the one before.
    """
    from edge_sft.export import qat

    before = attempts[-1]
    lost = f"rounding alone: {attempts[0].gate.note}"
    if before.gate.passed:
        lost += f"; it passed only with {before.in_float} of {len(_quantizable(source))} layers in float"
    try:
        model = _tuned(variant, source, chosen, progress)
    except qat.NotPossibleError as error:
        why = f"quantization-aware fine-tuning is not possible: {error}"
        return [replace(each, gate=_with_note(each.gate, why)) for each in attempts]
    with tempfile.TemporaryDirectory() as scratch:
        file = quantize.save(model, variant, Path(scratch))
        gate = reference.prove(variant, file, progress, f"made by quantization-aware fine-tuning ({lost})")
    if gate.passed:
        quantize.save(model, variant, out)
        return [*attempts, _Attempt(gate, 0)]
    faults = gate.note.split("; made by")[0]
    noted = [replace(each, gate=_with_note(each.gate, f"fine-tuned, none in float: {faults}")) for each in attempts]
    return [_Attempt(gate, 0), *noted]


def _tuned(variant: Int8Variant, source: Source, chosen: Ranges, progress: Progress) -> onnx.ModelProto:
    """Return the graph quantized after fine-tuning. Raises qat.NotPossibleError."""
    from edge_sft.export import qat

    assert source.training is not None  # asked before; for the type
    model = _corrected(variant, source, chosen, source.never)
    rounded = source.quantizer(model, chosen, variant, source.never)
    title = f"Fine-tuning {variant} under its rounding"
    learnt = qat.tune(model, rounded, chosen, source.training(progress), progress, title)
    return source.quantizer(learnt.model, learnt.ranges, variant, source.never)


def _with_note(gate: GateResult, more: str) -> GateResult:
    return gate.model_copy(update={"note": f"{gate.note}; {more}"})


def _quantizable(source: Source) -> list[str]:
    return [name for name in quantize.layers(source.model) if name not in source.never]


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
    layers = _quantizable(source)
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
    """Quantize with corrected biases."""
    keep_float = source.never.union(keep_float)
    return source.quantizer(_corrected(variant, source, chosen, keep_float), chosen, variant, keep_float)


def _corrected(variant: Int8Variant, source: Source, chosen: Ranges, keep_float: Collection[str]) -> onnx.ModelProto:
    """Quantize once to learn how the weights are rounded; return the float graph with biases that make up for it."""
    first = source.quantizer(source.model, chosen, variant, keep_float)
    return bias.corrected(source.model, first, means(source.seen))

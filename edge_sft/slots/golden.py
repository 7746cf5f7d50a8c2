"""Golden samples: real validation inputs that travel with a bundle, and what every variant must answer to them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.bundle import comparing
from edge_sft.bundle.manifest import GOLDEN
from edge_sft.errors import BundleRefused
from edge_sft.policy import AnyPolicy, PicturePolicy, decide
from edge_sft.slots.marking import Scene, judge

Arrays = dict[str, NDArray[Any]]

# Below this an output is the same number computed in another order: a threshold may sit exactly on a golden
# sample's score, and rounding alone must not refuse a sound model.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Golden:
    """Inputs by graph name [G, …] and expected outputs by variant and graph name [G, …].

    ``local`` holds the inputs without a batch axis: what a machine's commissioning replaces.
    """

    inputs: Arrays
    outputs: dict[str, Arrays]
    local: Arrays = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of golden samples."""
        return len(next(iter(self.inputs.values())))

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of a golden picture; without meaning for windows."""
        height, width = next(iter(self.inputs.values())).shape[1:3]
        return height, width

    def sample(self, index: int) -> Arrays:
        """Return all graph inputs of one golden sample, as on the line."""
        return {name: array[index : index + 1] for name, array in self.inputs.items()} | self.local


@dataclass(frozen=True)
class Comparison:
    """How a variant answered here.

    Attributes:
        samples: Golden samples asked.
        difference: Largest |difference| from the expected outputs in shares of each output's scale (see
            `edge_sft.bundle.comparing`); NaN where an output was not finite.
        decisions_changed: Decisions (verdict and label) that differ at the active policy.
    """

    samples: int
    difference: float
    decisions_changed: int

    def wrong(self, tolerance: float) -> str:
        """Say what is wrong with the answers; empty when they are right."""
        finite = bool(np.isfinite(self.difference))
        return wrong(self.difference if finite else None, tolerance, self.decisions_changed, self.samples)


def wrong(difference: float | None, tolerance: float | None, decisions_changed: int | None, samples: int) -> str:
    """Say what is wrong with answers to golden samples; empty when they are right.

    Args:
        difference: As in `Comparison`; None where an output was NaN or infinite.
        tolerance: What is allowed; None = anything.
        decisions_changed: As in `Comparison`; None = not asked.
        samples: As in `Comparison`.
    """
    if difference is None:
        return "gives NaN or infinite outputs on a golden sample"
    if tolerance is not None and difference > tolerance:
        return f"golden outputs differ by {difference:.2g} on this machine, {tolerance:.2g} is allowed"
    if decisions_changed:
        return f"decides {decisions_changed} of {samples} golden samples differently on this machine"
    return ""


def load(folder: Path) -> Golden:
    """Read golden.npz of an extracted bundle. Raises BundleRefused when it is damaged or holds nothing usable."""
    path = folder / GOLDEN
    inputs: Arrays = {}
    outputs: dict[str, Arrays] = {}
    local: Arrays = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                side, _, rest = key.partition("/")
                if side == "in":
                    inputs[rest] = archive[key]
                elif side == "local":
                    local[rest] = archive[key]
                elif side == "out":
                    variant, _, name = rest.partition("/")
                    outputs.setdefault(variant, {})[name] = archive[key]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BundleRefused(str(path), f"cannot be read ({error})", "Build the bundle again.") from error
    every = [*inputs.values(), *(array for arrays in outputs.values() for array in arrays.values())]
    counts = {array.shape[0] if array.ndim else 0 for array in every}
    if not inputs or len(counts) != 1 or counts == {0}:
        raise BundleRefused(str(path), "holds no usable golden samples", "Build the bundle again.")
    return Golden(inputs, outputs, local)


def compare(
    golden: Golden, variant: str, infer: Callable[[Arrays], Arrays], policy: AnyPolicy, *, together: bool = False
) -> Comparison:
    """Ask a variant every golden sample, one at a time as on the line.

    Args:
        golden: The samples.
        variant: Whose outputs are expected.
        infer: Runs it.
        policy: The active one.
        together: Ask all samples once more in one batch, as windows of many machines are decided.

    Raises:
        BundleRefused: There are no golden outputs of this variant, or of another shape.
        DeviceError: The engine failed.
    """
    expected = golden.outputs.get(variant)
    if not expected:
        raise BundleRefused(GOLDEN, f"has no expected outputs of {variant}", "Build the bundle again.")
    scales = comparing.scales(expected)
    worst, changed = 0.0, 0
    for index in range(golden.count):
        got = infer(golden.sample(index))
        want = {name: array[index : index + 1] for name, array in expected.items()}
        # outputs that serve commissioning only are not expected
        if {n: a.shape for n, a in got.items() if n in want} != {n: a.shape for n, a in want.items()}:
            raise BundleRefused(GOLDEN, f"expects other outputs than {variant} gives", "Build the bundle again.")
        difference = comparing.difference(want, got, scales)
        worst = difference if not np.isfinite(difference) else max(worst, difference)
        if not np.isfinite(worst):
            return Comparison(index + 1, float("nan"), changed)
        if difference > _ROUNDING:
            changed += _decision(got, policy, golden) != _decision(want, policy, golden)
    if together and golden.count > 1:
        got = infer(golden.inputs | golden.local)
        worst = max(worst, comparing.difference(expected, got, scales))
        worst = worst if all(np.isfinite(array).all() for array in got.values()) else float("nan")
    return Comparison(golden.count, worst, changed)


def _decision(outputs: Arrays, policy: AnyPolicy, golden: Golden) -> tuple[str, str | None]:
    if isinstance(policy, PicturePolicy):
        decision = judge(outputs, Scene.of_tile(*golden.tile), policy).decision
    else:
        decision = decide({name: array[0] for name, array in outputs.items()}, policy)
    return decision.verdict, decision.label

"""From what was measured of each variant to which one runs. Pure: no clock, no disk, no engine."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from edge_sft.profile import Budgets, VariantName
from edge_sft.slots import golden
from edge_sft.slots.proof import VariantProof

# By less two medians of a busy machine differ by themselves, and INT8 costs accuracy.
LEAST_GAIN = 0.05


class Measured(BaseModel):
    """What the proof found out about one variant. ``trouble`` is why it could not be measured to the end.

    ``golden_difference`` is None where an output was NaN or infinite (JSON has no such number) and ``finite``
    is then false.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: VariantName
    trouble: str = ""
    finite: bool = True
    golden_samples: int = 0
    golden_difference: float | None = None
    golden_tolerance: float | None = None
    decisions_changed: int | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    runs: int = 0
    memory_mb: float | None = None
    gpu_memory_mb: float | None = None
    plan: Literal["", "built", "cached"] = ""
    build_s: float | None = None


def judge(measured: list[Measured], budgets: Budgets, deadline_ms: float | None) -> tuple[VariantProof, ...]:
    """Pass or refuse every variant, with the reason in words.

    Args:
        measured: In the order of the profile.
        budgets: The profile's.
        deadline_ms: The active policy's, or None.
    """
    reference = next((item.p50_ms for item in measured if item.variant == "fp32" and not item.trouble), None)
    return tuple(_verdict(item, budgets, deadline_ms, reference) for item in measured)


def choose(proofs: tuple[VariantProof, ...]) -> VariantName | None:
    """Return the fastest variant that passed, or None."""
    passed = [item for item in proofs if item.passed]
    best = min(passed, key=lambda item: item.p50_ms if item.p50_ms is not None else math.inf, default=None)
    return None if best is None else best.variant


def _verdict(item: Measured, budgets: Budgets, deadline_ms: float | None, fp32_p50_ms: float | None) -> VariantProof:
    reason = _wrong(item) or _costly(item, budgets, deadline_ms) or _pointless(item, fp32_p50_ms)
    numbers = item.model_dump(exclude={"trouble", "finite"})
    return VariantProof(passed=not reason, reason=reason, **numbers)


def _wrong(item: Measured) -> str:
    """Say what is wrong with its answers."""
    difference = item.golden_difference if item.finite else None
    return item.trouble or golden.wrong(difference, item.golden_tolerance, item.decisions_changed, item.golden_samples)


def _costly(item: Measured, budgets: Budgets, deadline_ms: float | None) -> str:
    """Say what it costs too much of."""
    if item.p95_ms is None or item.p50_ms is None:
        return "its speed was not measured"
    if item.p95_ms > budgets.latency_p95_ms:
        return f"too slow: p95 {item.p95_ms:.3g} ms, the profile allows {budgets.latency_p95_ms:g} ms"
    if deadline_ms is not None and item.p95_ms > deadline_ms:
        return f"too slow: p95 {item.p95_ms:.3g} ms, the policy's deadline is {deadline_ms:g} ms"
    for whose, needs in (("", item.memory_mb), (" of the GPU's", item.gpu_memory_mb)):
        if needs is not None and needs > budgets.memory_mb:
            return f"needs {needs:.0f} MB{whose or ' of'} memory, the profile allows {budgets.memory_mb:g} MB"
    return ""


def _pointless(item: Measured, fp32_p50_ms: float | None) -> str:
    """Refuse INT8 that pays accuracy and gains no speed worth it."""
    if not item.variant.startswith("int8") or fp32_p50_ms is None or item.p50_ms is None:
        return ""
    if item.p50_ms > (1 - LEAST_GAIN) * fp32_p50_ms:
        gain = f"p50 {item.p50_ms:.3g} ms against {fp32_p50_ms:.3g} ms, {100 * LEAST_GAIN:g} % less is wanted"
        return f"not faster than fp32 here: {gain}"
    return ""

"""The table of variants: what turning the model into small files cost, and which may run."""

from __future__ import annotations

from edge_sft.bundle.manifest import GateResult
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import chip, section, table
from edge_sft.report.wording import between, count, share

VARIANTS = {
    "fp32": "the reference",
    "fp16": "half the size",
    "int8-trt": "for NVIDIA's TensorRT",
    "int8-cpu": "for processors",
}


def gates(results: tuple[GateResult, ...]) -> Html | None:
    """One row a variant; None where nothing was exported yet."""
    if not results:
        return None
    told = (
        f"Each variant against the trained model on {count(results[0].pictures, 'validation picture')}. A variant "
        f"whose net loss exceeds its tolerance is not shipped."
    )
    head: list[Child] = [
        "variant",
        "",
        "right → wrong",
        "its exact 95\u00a0%",
        "wrong → right",
        "net loss",
        "tolerance",
        "largest change of a score",
        "balanced accuracy",
    ]
    rows = [_row(result) for result in results]
    notes = [el("p", f"{result.variant}: {result.note}", class_="note") for result in results if result.note]
    return section(
        "The files that run on the line", told, table(head, rows, numeric=frozenset(range(2, 9))), notes, name="gates"
    )


def _row(result: GateResult) -> list[Child]:
    return [
        el("div", result.variant, el("div", VARIANTS.get(result.variant, ""), class_="note"), class_="name"),
        chip("passed", "good") if result.passed else chip("not shipped", "bad"),
        f"{result.right_to_wrong:,}",
        between(result.right_to_wrong_low, result.right_to_wrong_high),
        f"{result.wrong_to_right:,}",
        f"{result.net_loss_points:+.2f} points" if result.net_loss_points else "0 points",
        f"{result.tolerance_points:.2f} points",
        difference(result.max_score_difference),
        share(result.balanced_accuracy),
    ]


def difference(value: float) -> str:
    """The largest difference of a score, in two digits."""
    return "< 0.001" if value < 0.001 else f"{value:.2g}"

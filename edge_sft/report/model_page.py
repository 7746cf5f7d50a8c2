"""A model's report: one HTML file that answers how many defects slip through and how many good parts are scrapped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from edge_sft.bundle.manifest import GateResult
from edge_sft.checkpoint import CheckpointMeta, Scores
from edge_sft.recipe import PolicySection
from edge_sft.report.accuracy_section import calibration, confusion, curves, per_class
from edge_sft.report.basis import choose_basis
from edge_sft.report.decision_section import decision, headline, threshold
from edge_sft.report.gates_section import gates
from edge_sft.report.limits_section import footer, limits, origin
from edge_sft.report.mistakes_section import mistakes
from edge_sft.report.page import page


def render(
    meta: CheckpointMeta,
    scores: dict[str, Scores],
    gates_results: tuple[GateResult, ...],
    picture: Callable[[str], NDArray[Any] | None],
    *,
    section: PolicySection | None = None,
) -> str:
    """Make the report of a checkpoint.

    Args:
        meta: The checkpoint.
        scores: What it said about each split (``val``, ``test``), by split name; test is shown where it can be.
        gates_results: How its variants compared, or nothing before export.
        picture: Gives a picture by sample id, uint8 or uint16 [H, W] or [H, W, 3] RGB, or None.
        section: The recipe's ``[policy]``, for what it wished (``max_escape_rate``).

    Returns:
        The text of one self-contained HTML file.

    Raises:
        DataError: There is no scored picture at all.
    """
    basis = choose_basis(meta, scores, section)
    title, lede = headline(basis)
    body = [
        decision(basis),
        threshold(basis),
        confusion(basis),
        per_class(basis),
        mistakes(basis, picture),
        curves(basis),
        calibration(basis),
        gates(gates_results),
        limits(basis),
        origin(basis),
    ]
    return page(
        title=f"{meta.name} {meta.version}",
        kicker=f"{meta.name} {meta.version} · model report",
        headline=title,
        lede=lede,
        body=[part for part in body if part is not None],
        footer=footer(meta),
    )

"""A sensor model's report: one HTML file that says whether failures are called in time and alarms can be believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_sft import checkpoint as files
from edge_sft import sensor_recipe
from edge_sft.bundle.manifest import GateResult
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.report import anomaly_section, faults_section, rul_section
from edge_sft.report.limits_section import footer, untaught
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import page, section
from edge_sft.report.sensor_origin import gates, origin
from edge_sft.report.sensor_scores import Arrays

_KINDS = {
    "regression": (rul_section.cards, "remaining useful life"),
    "anomaly": (anomaly_section.cards, "anomaly detection"),
    "classification": (faults_section.cards, "faults"),
}


def render(meta: CheckpointMeta, scores: Arrays, results: tuple[GateResult, ...]) -> str:
    """Make the report of a sensor checkpoint.

    Args:
        meta: The checkpoint; its task says which of the three kinds of page it is.
        scores: What it said about each split, keyed as `edge_sft.report.sensor_scores` lists; test is shown where it
            can be.
        results: How its variants compared, or nothing before export.

    Returns:
        The text of one self-contained HTML file.

    Raises:
        DataError: There is nothing scored to report on.
    """
    cards, kind = _KINDS[meta.task.kind]
    title, lede, drawn, limits = cards(meta, scores)
    unknown: list[Child] = [one for one in (untaught(meta), *limits) if one]
    body = [*drawn, gates(meta, results), _limits(unknown), origin(meta)]
    return page(
        title=f"{meta.name} {meta.version}",
        kicker=f"{meta.name} {meta.version} · {kind} · model report",
        headline=title,
        lede=lede,
        body=[part for part in body if part is not None],
        footer=footer(meta),
    )


def of_checkpoint(checkpoint: Path, results: tuple[GateResult, ...] = ()) -> str:
    """Make the report of a checkpoint directory, with what its recipe adds (the cap on remaining life).

    Raises:
        DataError: No sensor checkpoint there, or nothing scored in it.
        UserError: Its recipe cannot be read.
    """
    scores = files.read_sensor_scores(checkpoint)
    path = checkpoint / files.RECIPE
    if "cap" not in scores and path.is_file():
        task = sensor_recipe.load(path).task
        if isinstance(task, sensor_recipe.RulTask):
            scores = {**scores, "cap": np.asarray(task.cap)}
    return render(files.read_meta(checkpoint), scores, results)


def _limits(items: list[Child]) -> Html:
    speed = "Speed and memory are not on this page: the device measures them when a bundle is deployed (proof.json)."
    listed = el("ul", [el("li", item) for item in [*items, speed]], class_="plain")
    return section("What these numbers do not prove", None, listed, name="limits")

"""The report of a model that says where: what slips through, what is scrapped, and where it looked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.bundle.manifest import GateResult
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.report.gates_section import gates
from edge_sft.report.limits_section import footer
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import page, section, table
from edge_sft.report.pictures import data_uri

Arrays = dict[str, NDArray[Any]]
Look = Callable[[str], Any]

_KINDS = {"anomaly": "anomaly detection", "detection": "detection", "segmentation": "segmentation"}
_NAMES = {
    "pictures": "pictures",
    "good": "good parts",
    "defects": "defective parts",
    "auroc": "area under the ROC curve",
    "average_precision": "average precision",
    "false_reject_rate": "good parts rejected",
    "false_reject_low": "… at least, 95 % sure",
    "false_reject_high": "… at most, 95 % sure",
    "escape_rate": "defective parts that pass",
    "escape_low": "… at least, 95 % sure",
    "escape_high": "… at most, 95 % sure",
    "map50": "mean average precision at an overlap of half (mAP50)",
    "map": "mean average precision (mAP50-95)",
    "iou": "overlap with what was drawn (IoU)",
    "aupro": "overlap by region (AUPRO)",
}
_SHARES = ("_rate", "_low", "_high")
_SHOWN = 12
_WIDTH = 320


def render(meta: CheckpointMeta, scores: Arrays, results: tuple[GateResult, ...], picture: Look) -> str:
    """Make the report of a checkpoint.

    Args:
        meta: The checkpoint.
        scores: What it said about each split, keyed ``<split>/<name>``.
        results: How its variants compared, or nothing before export.
        picture: Gives a picture by sample id, uint8 or uint16 [H,W] or [H,W,3] RGB, or None.

    Returns:
        The text of one self-contained HTML file.
    """
    body = [_numbers(meta), _pictures(meta, scores, picture), _remembered(meta, picture), gates(results)]
    title, lede = _headline(meta)
    return page(
        title=f"{meta.name} {meta.version}",
        kicker=f"{meta.name} {meta.version} · {_KINDS[meta.task.kind]} · model report",
        headline=title,
        lede=lede,
        body=[part for part in body if part is not None],
        footer=footer(meta),
    )


def _headline(meta: CheckpointMeta) -> tuple[str, str]:
    side = "test" if meta.metrics.get("test", {}).get("pictures") else "val"
    numbers = meta.metrics.get(side, {})
    where = "the test pictures" if side == "test" else "the validation pictures"
    told = []
    if "escape_rate" in numbers:
        told.append(f"{100 * numbers['escape_rate']:.1f} % of defective parts pass")
    if "false_reject_rate" in numbers:
        told.append(f"{100 * numbers['false_reject_rate']:.1f} % of good parts are rejected")
    if not told and "map50" in numbers:
        told.append(f"mAP50 is {numbers['map50']:.3f}")
    title = ", ".join(told) or "Nothing was there to measure it by"
    return title[:1].upper() + title[1:], f"On {where}, at the threshold that the bundle brings."


def _numbers(meta: CheckpointMeta) -> Html | None:
    sides = [side for side in ("val", "test") if meta.metrics.get(side)]
    names = [name for name in _NAMES if any(name in meta.metrics[side] for side in sides)]
    names += sorted({name for side in sides for name in meta.metrics[side]} - set(_NAMES))
    if not names:
        return None
    rows: list[list[Child]] = [
        [_NAMES.get(name, name), *(_number(name, meta.metrics[side].get(name)) for side in sides)] for name in names
    ]
    head: list[Child] = ["", *({"val": "validation", "test": "test"}[side] for side in sides)]
    told = "Validation chose thresholds; test was only looked at."
    return section("In numbers", told, table(head, rows, numeric=frozenset({1, 2})), name="numbers")


def _number(name: str, value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "–"
    if name.endswith(_SHARES):
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if name in ("pictures", "good", "defects") else f"{value:.3f}"


def _pictures(meta: CheckpointMeta, scores: Arrays, picture: Look) -> Html | None:
    """Show the pictures it is most wrong about, with where the map is high."""
    side = "test" if len(scores.get("test/scores", ())) else "val"
    if f"{side}/scores" not in scores or f"{side}/defect" not in scores or meta.task.kind != "anomaly":
        return None
    values, defect = scores[f"{side}/scores"], scores[f"{side}/defect"]
    ids = bytes(scores[f"{side}/ids"]).decode().split("\n")
    limit = float(getattr(meta.policy, "threshold", 1.0))
    passed = [index for index in np.argsort(values) if defect[index] and values[index] < limit]
    rejected = [index for index in np.argsort(-values) if not defect[index] and values[index] >= limit]
    found = [index for index in np.argsort(-values) if defect[index] and values[index] >= limit]
    groups = [
        ("Defective parts that pass", passed),
        ("Good parts that are rejected", rejected),
        ("Defects found", found),
    ]
    shown: list[Child] = []
    for title, chosen in groups:
        cards = [
            card
            for index in chosen[: _SHOWN // 2]
            if (card := _card(ids[index], float(values[index]), scores[f"{side}/maps"][index], picture)) is not None
        ]
        if cards:
            shown += [el("h3", f"{title} ({len(chosen)})"), el("div", cards, class_="figures three")]
    told = "Right: the same picture with where it is unlike good parts; red is at the limit and beyond."
    return section("What it looked at", told, shown, name="pictures") if shown else None


def _card(name: str, score: float, cells: NDArray[Any], picture: Look) -> Html | None:
    frame = picture(name)
    if frame is None:
        return None
    return el(
        "div",
        el("img", src=data_uri(_pair(frame, cells), 2 * _WIDTH), alt=f"{name} and its map", style="width:100%"),
        el("div", f"{name} · {score:.2f} of the limit", class_="note"),
    )


def _pair(frame: NDArray[Any], cells: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the picture beside itself under its map, uint8 RGB."""
    import cv2

    grey = frame if frame.dtype == np.uint8 else (frame / 256).astype(np.uint8)
    rgb = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB) if grey.ndim == 2 else grey[:, :, :3]
    height = max(1, round(rgb.shape[0] * _WIDTH / rgb.shape[1]))
    rgb = cv2.resize(np.ascontiguousarray(rgb), (_WIDTH, height), interpolation=cv2.INTER_AREA)
    heat = cv2.resize(cells.astype(np.float32), (_WIDTH, height), interpolation=cv2.INTER_CUBIC)
    strength = np.clip(heat, 0, 1.25)[:, :, None] / 1.25
    red = np.array([220.0, 30.0, 30.0])
    mixed = rgb * (1 - 0.7 * strength**2) + red * (0.7 * strength**2)
    return np.asarray(np.hstack([rgb, np.clip(mixed, 0, 255).astype(np.uint8)]), dtype=np.uint8)


def _remembered(meta: CheckpointMeta, picture: Look) -> Html | None:
    left = [str(name) for name in meta.training.get("left_out", ())]
    notes: list[Child] = [el("p", str(note)) for note in meta.training.get("notes", ())]
    cards: list[Child] = []
    for name in left[:_SHOWN]:
        frame = picture(name)
        if frame is not None:
            cells = np.zeros((2, 2), dtype=np.float32)
            image = _pair(frame, cells)[:, :_WIDTH]
            cards.append(
                el(
                    "div",
                    el("img", src=data_uri(image, _WIDTH), alt=name, style="width:100%"),
                    el("div", name, class_="note"),
                )
            )
    if not notes and not cards:
        return None
    told = "Look at the pictures that were left out: if they are good parts, the line makes more than one kind."
    drawn = el("div", cards, class_="figures three") if cards else None
    return section("What was learnt from", told if cards else None, notes, drawn, name="learnt")

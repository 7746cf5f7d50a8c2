"""Where a sensor model comes from: its windows, its files for the line, its fingerprints."""

from __future__ import annotations

from edge_sft.bundle.manifest import GateResult
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.report.gates_section import VARIANTS, difference
from edge_sft.report.limits_section import training_facts
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import chip, facts, mono, section, table
from edge_sft.report.wording import count, listed

_RIGHT = {
    "classification": "windows turned wrong / right",
    "anomaly": "verdicts turned wrong / right",
    "regression": "intervals that lost / found the truth",
}


def gates(meta: CheckpointMeta, results: tuple[GateResult, ...]) -> Html | None:
    """One row a variant; None where nothing was exported yet."""
    if not results:
        return None
    told = (
        f"Each variant against the trained model on {count(results[0].pictures, 'validation window')}. A variant that "
        f"loses more than its tolerance is not shipped; on the machine the fastest of the others runs."
    )
    measure = next((result.measure for result in results if result.measure), "")
    head: list[Child] = [
        "variant",
        "",
        *([measure] if measure else []),
        _RIGHT[meta.task.kind],
        "net loss",
        "tolerance",
        "largest change",
    ]
    rows = [_gate(result, measure=bool(measure)) for result in results]
    notes = [el("p", f"{result.variant}: {result.note}", class_="note") for result in results if result.note]
    shown = table(head, rows, numeric=frozenset(range(2, len(head))))
    return section("The files that run on the line", told, shown, notes, name="gates")


def _gate(result: GateResult, *, measure: bool) -> list[Child]:
    return [
        el("div", result.variant, el("div", VARIANTS.get(result.variant, ""), class_="note"), class_="name"),
        chip("passed", "good") if result.passed else chip("not shipped", "bad"),
        *([_change(result)] if measure else []),
        f"{result.right_to_wrong:,} / {result.wrong_to_right:,}",
        f"{result.net_loss_points:+.2f} points" if abs(result.net_loss_points) >= 0.005 else "0 points",
        f"{result.tolerance_points:.2f} points",
        difference(result.max_score_difference),
    ]


def _change(result: GateResult) -> str:
    if result.before is None or result.after is None:
        return "–"
    return f"{result.before:.4g} → {result.after:.4g}"


def origin(meta: CheckpointMeta) -> Html:
    """Windows, fingerprints and settings."""
    windowing = meta.windowing
    names = [f"{channel.name} ({channel.unit})" if channel.unit else channel.name for channel in windowing.channels]
    window = f"{count(windowing.length, 'step')} of {windowing.period_s:g}"
    window += f"; a decision every {count(windowing.hop, 'step')}" if windowing.hop > 1 else "; a decision every step"
    pairs: list[tuple[str, Child]] = [
        ("Model", f"{meta.name} {meta.version}, {meta.backbone}"),
        ("Channels", listed([*names, *(["age"] if windowing.age else [])], 60)),
        ("Window", window),
        *([("Labels", listed(list(meta.task.labels), 40))] if meta.task.labels else []),
        ("Policy", mono(meta.policy.version)),
        ("Data set", mono(meta.dataset_fingerprint)),
        ("Test split", mono(meta.test_fingerprint) if meta.test_fingerprint else "none"),
        ("Weights (SHA-256)", mono(meta.weights_sha256)),
        *training_facts(meta),
    ]
    return section("Where it comes from", None, facts(pairs), name="origin")

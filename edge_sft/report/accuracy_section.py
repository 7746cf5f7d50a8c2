"""What is taken for what: confusion matrix, per-class table, PR and ROC, reliability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_sft.metrics.calibration import calibration_error, reliability
from edge_sft.metrics.classification import Curve, confusion_matrix, precision_recall, roc
from edge_sft.metrics.plant import defect_scores, is_defect
from edge_sft.report.basis import Basis
from edge_sft.report.charts import Frame, interval_bar, share_axis
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import chip, legend, section, table
from edge_sft.report.wording import between, count, share

_LARGEST_MATRIX = 16
_LINES = ("brand", "escape", "overkill", "good")


def confusion(basis: Basis) -> Html:
    """The confusion matrix; beyond 16 labels the most frequent confusions as a list."""
    counts, labels = basis.evaluation.confusion, basis.meta.task.labels
    told = f"Rows are what the part is, columns what the model makes of it; {basis.split_words} pictures."
    shown = matrix(counts, labels, labels) if len(labels) <= _LARGEST_MATRIX else _pairs(counts, labels)
    if not basis.sorting:
        named = el("div", el("h3", "Most probable label"), shown)
        shown = el("div", el("div", el("h3", "Decision at the threshold"), _decisions(basis)), named, class_="side")
    return section("What is taken for what", told, shown, name="confusion")


def _decisions(basis: Basis) -> Html:
    return matrix(_decision_matrix(basis), ("good part", "defect"), ("passed", "rejected"))


def _decision_matrix(basis: Basis) -> NDArray[np.float64]:
    scores, task = basis.scores, basis.meta.task
    rejected = defect_scores(scores, task) >= basis.meta.rule.threshold
    return confusion_matrix(is_defect(scores, task), rejected, 2, scores.weights)


def matrix(counts: NDArray[np.float64], labels: Sequence[str], columns: Sequence[str]) -> Html:
    """A confusion matrix: ``counts`` [K, K], rows ``labels`` (what it is), ``columns`` what was made of it."""
    head = el("tr", el("th"), [el("th", name, scope="col") for name in columns])
    rows = []
    for i, label in enumerate(labels):
        total = counts[i].sum()
        cells = [_cell(counts[i, j], total, right=i == j) for j in range(len(labels))]
        rows.append(el("tr", el("th", label, scope="row"), cells))
    return el("div", el("table", el("thead", head), el("tbody", rows), class_="matrix"), class_="scroll")


def _cell(weight: float, total: float, *, right: bool) -> Html:
    part = weight / total if total else 0.0
    if weight <= 0:
        return el("td", "·", class_="soft")
    colour = "good" if right else "escape"
    strength = round(12 + 40 * part)
    # Browsers without color-mix keep the first of the two.
    style = f"background:var(--{colour}-soft);background:color-mix(in srgb,var(--{colour}) {strength}%,transparent)"
    number = f"{weight:,.0f}" if abs(weight - round(weight)) < 1e-6 else f"{weight:,.1f}"
    return el("td", number, el("small", share(part)), style=style)


def _pairs(matrix: NDArray[np.float64], labels: Sequence[str]) -> Html:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:20]
    pairs = [(int(cell) // len(labels), int(cell) % len(labels)) for cell in order]
    rows: list[list[Child]] = [
        [labels[i], labels[j], f"{wrong[i, j]:,.0f}", share(float(wrong[i, j] / matrix[i].sum()))]
        for i, j in pairs
        if wrong[i, j] > 0
    ]
    return table(["the part is", "the model says", "pictures", "share of its label"], rows, numeric=frozenset({2, 3}))


def per_class(basis: Basis) -> Html:
    """One row a label: found (recall) with its exact interval, precision, F1."""
    result = basis.evaluation
    rows: list[list[Child]] = []
    for row in result.rows:
        good = row.label in basis.meta.task.ok_labels
        kind = None if basis.sorting else chip("good", "good") if good else chip("defect", "bad")
        rows.append(
            [
                el("div", row.label, " ", kind, class_="name"),
                f"{row.pictures:,}",
                interval_bar(row.recall, row.recall_low, row.recall_high, "brand") if row.pictures else None,
                share(row.recall),
                between(row.recall_low, row.recall_high) if row.pictures else "–",
                share(row.precision),
                "–" if row.f1 is None else f"{row.f1:.3f}",
            ]
        )
    balanced, f1 = result.balanced_accuracy, result.macro_f1
    told = (
        f"Balanced accuracy {share(balanced.value)} ({between(balanced.low, balanced.high)}), "
        f"macro F1 {f1.value:.3f} ({f1.low:.3f}–{f1.high:.3f}); the most probable label counts, whatever the threshold."
    )
    head: list[Child] = ["label", "pictures", "found", "", "exact 95 %", "right when said", "F1"]
    return section("Label by label", told, table(head, rows, numeric=frozenset({1, 3, 4, 5, 6})), name="labels")


def curves(basis: Basis) -> Html | None:
    """PR and ROC of defect against good; for sorting, of the four labels hardest to tell from the rest."""
    named = _sorting_curves(basis) if basis.sorting else _defect_curves(basis)
    if not named:
        return None
    left, right = Frame(share_axis("found (recall)"), share_axis("")), Frame(share_axis("false alarms"), share_axis(""))
    right.line([0, 1], [0, 1], "faint", width=1.2, dash="4 4")
    for (_, precision, receiver), colour in zip(named, _LINES, strict=False):
        left.line(*_thinned(precision), colour)
        right.line(*_thinned(receiver), colour)
    here = operating_point(basis)
    if here is not None:
        found, precise, alarms = here
        left.dot(found, precise, "ink", 5.5)
        right.dot(alarms, found, "ink", 5.5)
    key = [(colour, name) for (name, _, _), colour in zip(named, _LINES, strict=False)]
    panels = [
        el("div", el("h3", "Precision and recall"), left.draw("Precision over recall"), _areas(named, 1)),
        el("div", el("h3", "ROC"), right.draw("Found over false alarms"), _areas(named, 2)),
    ]
    told = f"Every threshold at once, on {basis.split_words} pictures" + (
        "; one label against the rest, the hardest ones." if basis.sorting else "; the dot is the chosen threshold."
    )
    shown = el("div", panels, class_="two")
    return section(
        "How well they can be told apart", told, shown, legend(key) if basis.sorting else None, name="curves"
    )


def operating_point(basis: Basis) -> tuple[float, float, float] | None:
    """Return recall, precision and false alarms at the policy's threshold; None where one is undefined."""
    if basis.sorting:
        return None
    passed_good, rejected_good, passed_bad, rejected_bad = _decision_matrix(basis).ravel().tolist()
    good, bad, rejected = passed_good + rejected_good, passed_bad + rejected_bad, rejected_good + rejected_bad
    if not (good and bad and rejected):
        return None
    return rejected_bad / bad, rejected_bad / rejected, rejected_good / good


Named = tuple[str, Curve, Curve]


def _defect_curves(basis: Basis) -> list[Named]:
    scores, task = basis.scores, basis.meta.task
    defect, score = is_defect(scores, task), defect_scores(scores, task)
    found = _both("defect", defect, score, scores.weights)
    return [found] if found else []


def _sorting_curves(basis: Basis) -> list[Named]:
    scores = basis.scores
    found = [
        _both(label, scores.labels == index, scores.probabilities[:, index], scores.weights)
        for index, label in enumerate(basis.meta.task.labels)
    ]
    return sorted((item for item in found if item), key=lambda item: item[1].area)[: len(_LINES)]


def _both(
    name: str, positive: NDArray[np.bool_], score: NDArray[np.floating], weights: NDArray[np.float32]
) -> Named | None:
    precision, receiver = precision_recall(positive, score, weights), roc(positive, score, weights)
    return (name, precision, receiver) if precision and receiver else None


def _areas(named: list[Named], which: int) -> Html:
    words = "average precision" if which == 1 else "area under the curve"
    told = ", ".join(f"{item[0]} {item[which].area:.3f}" for item in named)  # type: ignore[union-attr]
    return el("p", f"{words.capitalize()}: {told}", class_="note")


def _thinned(curve: Curve, most: int = 300) -> tuple[list[float], list[float]]:
    keep = np.unique(np.linspace(0, len(curve.x) - 1, min(most, len(curve.x))).astype(int))
    return curve.x[keep].tolist(), curve.y[keep].tolist()


def calibration(basis: Basis) -> Html:
    """The reliability diagram."""
    scores = basis.scores
    frame = Frame(share_axis("how sure the model says it is"), share_axis(""))
    frame.line([0, 1], [0, 1], "faint", width=1.2, dash="4 4")
    for part in reliability(scores.probabilities, scores.labels, scores.weights):
        frame.whisker(part.confidence, part.low, part.high, "brand")
        frame.dot(part.confidence, part.accuracy, "brand")
    error = calibration_error(scores.probabilities, scores.labels, scores.weights)
    off = share(error) if error >= 0.001 else "less than 0.1\u00a0%"
    told = f"How often it is right ({count(len(scores.labels), 'picture')}, exact 95 % bounds)"
    explained = (
        f"On average its confidence is off by {off} (expected calibration error, bins of equal number; "
        f"temperature {basis.meta.temperature:.3g}, fitted on validation). Points on the dashed line keep their word; "
        f"below it the model is too sure of itself, above it too modest."
    )
    panel = el("div", frame.draw("Reliability diagram"))
    return section(
        "Is 90 % sure 90 % right?", told, el("div", panel, el("p", explained), class_="hero"), name="calibration"
    )

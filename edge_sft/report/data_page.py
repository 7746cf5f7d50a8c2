"""The data check's page: what to mend before training, then what the pictures are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge_sft.data.findings import Finding, Findings, LabelCount, Lookalikes, Spread
from edge_sft.errors import EdgeSftError
from edge_sft.preprocess import read_image
from edge_sft.report.charts import Axis, Frame, nice_axis
from edge_sft.report.check_page import check_page, in_words, quarantined, set_aside
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import chip, facts, mono, section, table
from edge_sft.report.pictures import figure
from edge_sft.report.wording import count, listed, share

_SHOWN = 6  # pictures of one finding
_GROUPS = 8  # groups of look-alikes
_SUSPECTS = 18
_SPLITS = ("train", "val", "test")


def render(findings: Findings) -> str:
    """Make the page of `edge-sft check`: the text of one self-contained HTML file."""
    labels = count(len(findings.balance), "label")
    lede = f"{labels} in {findings.root}{set_aside(findings)}. Every file was read."
    body = [
        in_words(findings, lambda finding: _gallery(findings, finding)),
        _balance(findings),
        _suspicious(findings),
        _lookalikes(findings),
        _spreads(findings),
        _formats(findings),
        quarantined(findings),
        _origin(findings),
    ]
    return check_page(findings, count(findings.count, "picture"), lede, body)


def _gallery(findings: Findings, finding: Finding) -> list[Html | None]:
    """Draw what a finding names: its pictures, or their names where none can be shown."""
    shown = [_picture(findings, name) for name in finding.ids[:_SHOWN] if name in findings.paths]
    if not shown:
        return [el("p", listed(list(finding.ids), 3), class_="note") if finding.ids else None]
    rest = len(finding.ids) - len(shown)
    more = el("p", f"and {rest:,} more", class_="note") if rest > 0 else None
    return [el("div", shown, class_="gallery"), more]


def _picture(findings: Findings, name: str, lines: list[Child] | None = None) -> Html:
    return figure(_read(findings.paths.get(name)), name=name, lines=lines or [])


def _read(path: Path | None) -> NDArray[Any] | None:
    if path is None:
        return None
    try:
        return read_image(path)
    except EdgeSftError:
        return None  # unreadable: that is what the page is about


def _balance(findings: Findings) -> Html | None:
    if not findings.balance:
        return None
    most = max(row.total for row in findings.balance) or 1
    total = sum(row.total for row in findings.balance) or 1
    sorting = all(row.good for row in findings.balance)  # then calling each label good says nothing
    rows = [_label_row(row, most, total, kind=not sorting) for row in findings.balance]
    told = "How many pictures of each label there are, and on which side of the split."
    numeric = frozenset({2, 3, 4, 5, 6})
    return section(
        "Labels", told, table(["label", "", "all", "share", *_SPLITS], rows, numeric=numeric), name="balance"
    )


def _label_row(row: LabelCount, most: int, total: int, *, kind: bool) -> list[Child]:
    named = chip("good", "good") if row.good else chip("defect", "bad")
    colour = "good" if row.good else "escape"
    width = 120 * row.total / most
    bar = el(
        "svg",
        el("rect", x=0, y=4, width=120, height=8, rx=4, fill="var(--track)"),
        el("rect", x=0, y=4, width=max(2.0, width), height=8, rx=4, fill=f"var(--{colour})") if row.total else None,
        viewBox="0 0 120 16",
        role="img",
        aria_label=f"{row.total} pictures",
    )
    sides: list[Child] = [f"{row.counts.get(name, 0):,}" for name in _SPLITS]  # type: ignore[call-overload]
    return [
        el("div", row.label, " ", named if kind else None, class_="name"),
        bar,
        f"{row.total:,}",
        share(row.total / total),
        *sides,
    ]


def _suspicious(findings: Findings) -> Html | None:
    if not findings.suspicious:
        return None
    figures = [
        _picture(
            findings,
            item.id,
            [
                f"labelled {item.label} ({share(item.probability_of_label)})",
                f"model says {item.predicted} ({share(item.probability_of_predicted)})",
                f"in {item.split}",
            ],
        )
        for item in findings.suspicious[:_SUSPECTS]
    ]
    told = f"{count(len(findings.suspicious), 'picture')} whose label a trained model doubts, the most doubtful first."
    return section(
        "Labels worth a second look", told, el("div", figures, class_="gallery"), name="suspicious", long=True
    )


def _lookalikes(findings: Findings) -> Html | None:
    if not findings.lookalikes:
        return None
    groups = [_group(findings, group) for group in findings.lookalikes[:_GROUPS]]
    rest = len(findings.lookalikes) - len(groups)
    more = el("p", f"and {count(rest, 'group')} more", class_="note") if rest > 0 else None
    exact = sum(group.exact for group in findings.lookalikes)
    told = (
        f"{count(exact, 'group')} of identical, {count(len(findings.lookalikes) - exact, 'group')} of nearly identical "
        f"pictures. Two of a kind on both sides of a split make a model look better than it is."
    )
    return section("Look-alikes", told, groups, more, name="lookalikes", long=True)


def _group(findings: Findings, group: Lookalikes) -> Html:
    chips = [
        chip("identical" if group.exact else "nearly identical"),
        chip("different labels", "bad") if group.conflicting else None,
        chip("on both sides of a split", "warn") if group.leaking else None,
        f" {count(len(group.ids), 'picture')}",
    ]
    members = list(zip(group.ids, group.labels, group.splits, strict=True))[:_SHOWN]
    figures = [_picture(findings, name, [f"{label} · {split}"]) for name, label, split in members]
    head = el("p", [[part, " "] for part in chips if part])
    return el("div", head, el("div", figures, class_="gallery"), class_="finding")


def _spreads(findings: Findings) -> Html | None:
    drawn = [_spread(spread) for spread in findings.spreads if any(spread.histogram)]
    if not drawn:
        return None
    told = "How the pictures differ; a picture far from the rest is worth a look."
    return section("What the pictures are like", told, el("div", drawn, class_="two"), name="spreads")


def _spread(spread: Spread) -> Html:
    low, high = spread.smallest, spread.largest
    if high <= low:
        head = el("h3", spread.name.capitalize())
        return el("div", head, el("p", f"{_with_unit(low, spread)} in every picture", class_="note"))
    ticks = [(value, f"{value:,.3g}") for value in (low, (low + high) / 2, high)]
    frame = Frame(
        Axis(low, high, ticks, spread.unit), nice_axis(max(spread.histogram), lambda v: f"{v:,.0f}"), height=200
    )
    step = (high - low) / len(spread.histogram)
    for index, number in enumerate(spread.histogram):
        if number:
            frame.bar(low + index * step, low + (index + 1) * step, 0, number, "brand")
    told = (
        f"half are below {_with_unit(spread.median, spread)}, "
        f"98 in 100 between {spread.low:,.4g} and {_with_unit(spread.high, spread)}"
    )
    far = [f"{name} ({value:,.4g})" for name, value in spread.outliers[:3]]
    outliers = el("p", f"Farthest out: {listed(far)}", class_="note name") if far else None
    shown = frame.draw(f"Histogram of {spread.name}")
    return el("div", el("h3", spread.name.capitalize()), shown, el("p", told, class_="note"), outliers)


def _with_unit(value: float, spread: Spread) -> str:
    return f"{value:,.4g} {spread.unit}".strip()


def _formats(findings: Findings) -> Html | None:
    if not findings.formats:
        return None
    names = {1: "grey", 3: "colour", 4: "colour with transparency"}
    rows: list[list[Child]] = [
        [
            f"{item.width}×{item.height}",
            names.get(item.channels, f"{item.channels} channels"),
            f"{item.bits} bit",
            f"{item.count:,}",
        ]
        for item in findings.formats[:20]
    ]
    rest = len(findings.formats) - len(rows)
    more = el("p", f"and {count(rest, 'kind')} more", class_="note") if rest > 0 else None
    shown = table(["pixels", "kind", "depth", "pictures"], rows, numeric=frozenset({3}))
    return section("Kinds of file", None, shown, more, name="formats")


def _origin(findings: Findings) -> Html:
    pairs: list[tuple[str, Child]] = [
        ("Folder", str(findings.root)),
        ("Data set", mono(findings.fingerprint or "–")),
        ("Test split", mono(findings.test_fingerprint or "–")),
    ]
    told = (
        "Put the test split's fingerprint into the recipe ([data.split] frozen_test) and it can never change unnoticed."
    )
    return section("Fingerprints", told, facts(pairs), name="origin")

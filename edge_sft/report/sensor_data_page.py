"""The data check's page for sensors: what to mend before training, then every channel with a small chart."""

from __future__ import annotations

import math

from edge_sft.data.findings import Finding
from edge_sft.data.sensors.findings import ChannelSummary, SensorFindings, Sketch
from edge_sft.data.sensors.wording import when
from edge_sft.report.check_page import check_page, in_words, quarantined, set_aside
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import chip, facts, mono, section, table
from edge_sft.report.wording import count, listed, share

_NAMED = 6  # runs or files named under one finding
_BAD = frozenset(
    {"unit", "stuck", "dead", "code", "renamed-channel", "missing-channel", "outside", "twin", "no-number"}
)
_WIDE, _HIGH = 260, 56  # of a channel's chart, in pixels


def render(findings: SensorFindings) -> str:
    """Make the page of `edge-sft check` for sensors: the text of one self-contained HTML file."""
    channels, runs = count(len(findings.channels), "channel"), count(findings.runs, "run")
    lede = f"{channels}, {runs} of {count(findings.groups, 'group')} in {findings.root}{set_aside(findings)}."
    body = [
        in_words(findings, _named),
        _channels(findings),
        _sides(findings),
        _labels(findings),
        quarantined(findings),
        _origin(findings),
    ]
    return check_page(findings, count(findings.rows, "row"), lede, body)


def _named(finding: Finding) -> list[Html | None]:
    return [el("p", listed(list(finding.ids), _NAMED), class_="note name") if finding.ids else None]


def _channels(findings: SensorFindings) -> Html:
    rows = [_channel(channel) for channel in findings.channels]
    told = (
        "Each channel over the longest run that has it: the band goes from the smallest to the largest value of the "
        "moment; where there is none, there was no value. Half of all values lie below the median, 98 in 100 between "
        "low and high."
    )
    head: list[Child] = ["channel", "in one run", "low", "median", "high", "has a value"]
    return section("Channels", told, table(head, rows, numeric=frozenset({2, 3, 4, 5})), name="channels", long=True)


def _channel(channel: ChannelSummary) -> list[Child]:
    unit = f" {channel.unit}" if channel.unit else ""
    marks = [chip(word, "warn" if word in _BAD else "") for word in channel.words]
    if channel.condition:
        marks.insert(0, chip("condition"))
    name = el("div", el("b", channel.name), unit, el("div", [[mark, " "] for mark in marks]), class_="name")
    without = f" (nothing in {count(channel.runs_without, 'run')})" if channel.runs_without else ""
    sketch = _sketch(channel.sketch) if channel.sketch else "–"
    numbers: list[Child] = [_figure(value) for value in (channel.low, channel.median, channel.high)]
    return [name, sketch, *numbers, f"{share(channel.present)}{without}"]


def _figure(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.4g}"


def _sketch(sketch: Sketch) -> Html:
    known = [(i, low, high) for i, (low, high) in enumerate(zip(sketch.lows, sketch.highs, strict=True))]
    known = [one for one in known if not math.isnan(one[1])]
    if not known:
        return el("span", "–")
    least, most = min(low for _, low, _ in known), max(high for _, _, high in known)
    span = (most - least) or 1.0
    pitch = _WIDE / len(sketch.lows)

    def y(value: float) -> float:
        return round(_HIGH - 4 - (value - least) / span * (_HIGH - 8), 1)

    path = "".join(f"M{i * pitch + pitch / 2:.1f} {y(high)}V{max(y(low), y(high) + 1.2):.1f}" for i, low, high in known)
    line = el("path", d=path, stroke="var(--brand)", stroke_width=round(pitch + 0.15, 2), fill="none")
    says = f"{sketch.run}: from {least:.4g} to {most:.4g}, {when(sketch.start)} to {when(sketch.end)}"
    svg = el("svg", line, viewBox=f"0 0 {_WIDE} {_HIGH}", width=_WIDE, height=_HIGH, role="img", aria_label=says)
    return el("div", svg, el("div", f"{sketch.run}, {when(sketch.start)} to {when(sketch.end)}", class_="note name"))


def _sides(findings: SensorFindings) -> Html:
    rows: list[list[Child]] = [
        [side.side, f"{side.groups:,}", f"{side.runs:,}", f"{side.rows:,}"] for side in findings.sides
    ]
    told = "Machines, bearings or runs are never cut: what trains a model never judges it."
    shown = table(["side", "groups", "runs", "rows"], rows, numeric=frozenset({1, 2, 3}))
    return section("Split", told, shown, name="split")


def _labels(findings: SensorFindings) -> Html | None:
    if not findings.labels:
        return None
    rows: list[list[Child]] = []
    for row in findings.labels:
        sides = [f"{row.rows[one.side]:,} ({count(row.groups[one.side], 'group')})" for one in findings.sides]
        rows.append([row.label, *sides])
    head: list[Child] = ["label", *(side.side for side in findings.sides)]
    return section("Labels", "Rows of each, and of how many groups.", table(head, rows), name="labels")


def _origin(findings: SensorFindings) -> Html:
    pairs: list[tuple[str, Child]] = [
        ("Data", str(findings.root)),
        ("Data set", mono(findings.fingerprint or "–")),
        ("Test split", mono(findings.test_fingerprint or "–")),
    ]
    return section("Fingerprints", "Of the rows, groups, labels and sides.", facts(pairs), name="origin")

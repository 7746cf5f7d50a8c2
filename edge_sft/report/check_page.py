"""What the data check's pages for pictures and for sensors share: the frame, the findings, the files set aside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edge_sft.data.dataset import Quarantined
from edge_sft.data.findings import Finding, Severity
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import callout, chip, page, section, table
from edge_sft.report.wording import count

_FILES = 200
_CHIPS: dict[Severity, tuple[str, str]] = {
    "error": ("mend first", "bad"),
    "warning": ("look at it", "warn"),
    "note": ("good to know", ""),
}


class Checked(Protocol):
    """What a check of pictures and one of sensors both found."""

    @property
    def name(self) -> str:
        """The recipe's name."""
        ...

    @property
    def root(self) -> Path:
        """The data folder."""
        ...

    @property
    def findings(self) -> tuple[Finding, ...]:
        """In words: errors first, then warnings, then notes."""
        ...

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """Files left out, and why."""
        ...

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        ...


def check_page(findings: Checked, usable: str, lede: str, body: list[Html | None]) -> str:
    """Make the text of one self-contained HTML file.

    Args:
        findings: What was found.
        usable: What can be used, e.g. "300 pictures": the headline begins with it.
        lede: The sentence below it.
        body: Sections; None is left out.
    """
    errors, warnings = len(findings.of("error")), len(findings.of("warning"))
    if errors:
        headline = f"{usable}; {count(errors, 'thing')} to mend before training"
    elif warnings:
        headline = f"{usable}, ready to train; {count(warnings, 'thing')} to look at"
    else:
        headline = f"{usable}, ready to train"
    return page(
        title=f"{findings.name}: data check",
        kicker=f"{findings.name} · data check",
        headline=headline,
        lede=lede,
        body=[part for part in body if part is not None],
        footer=f"{findings.root} · one file, no script, nothing is loaded from anywhere",
    )


def set_aside(findings: Checked) -> str:
    """Return "; 3 files set aside", or nothing."""
    return f"; {count(len(findings.quarantined), 'file')} set aside" if findings.quarantined else ""


def in_words(findings: Checked, shown: Callable[[Finding], list[Html | None]]) -> Html:
    """Draw all findings; ``shown`` says what stands below each one's words."""
    if not findings.findings:
        return section("In words", None, callout("Nothing to mend and nothing to look at."), name="findings")
    rows = [_finding(finding, shown(finding)) for finding in findings.findings]
    return section("In words", "What to mend first comes first.", rows, name="findings", long=True)


def _finding(finding: Finding, below: list[Html | None]) -> Html:
    label, kind = _CHIPS[finding.severity]
    words = el("p", chip(label, kind), " ", el("b", finding.text))
    remedy = el("p", finding.remedy, class_="soft") if finding.remedy else None
    return el("div", words, remedy, *below, class_="finding")


def quarantined(findings: Checked) -> Html | None:
    """List the files left out; None where there are none."""
    if not findings.quarantined:
        return None
    rows: list[list[Child]] = [
        [el("div", left.id, class_="name"), left.reason] for left in findings.quarantined[:_FILES]
    ]
    rest = len(findings.quarantined) - len(rows)
    more = el("p", f"and {count(rest, 'file')} more", class_="note") if rest > 0 else None
    told = f"{count(len(findings.quarantined), 'file')} left out by name; everything else goes on without them."
    return section("Set aside", told, table(["file", "why"], rows), more, name="quarantined", long=True)

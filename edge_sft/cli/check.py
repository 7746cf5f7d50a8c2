"""`edge-sft check`: read every picture and say in words what is the matter with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_sft.cli.console import console, progress

if TYPE_CHECKING:
    from edge_sft.data.findings import Finding, Findings
    from edge_sft.recipe import Recipe

_NAMED = 8  # pictures named under one finding; the page names them all
_STYLE = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def check(
    data: Annotated[Path, typer.Argument(help="A recipe, or the folder or manifest you would give to init.")],
    html: Annotated[Path | None, typer.Option(help="Also write a page with the pictures concerned.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A trained checkpoint: find labels that its model doubts.")
    ] = None,
) -> None:
    """Read every picture; tell what is broken, double, contradictory, rare or odd. Ends with 3 if there are errors."""
    from edge_sft.checkpoint import read_scores
    from edge_sft.data.checking import check as judge
    from edge_sft.data.reader import open_dataset

    recipe = _recipe(data)
    scores = None if checkpoint is None else read_scores(checkpoint)
    with progress() as bar:
        findings = judge(recipe, open_dataset(recipe, bar), bar, scores=scores)
    _say(findings)
    if html is not None:
        _page(findings, html)
    if findings.has_errors:
        raise typer.Exit(3)


def _recipe(data: Path) -> Recipe:
    from edge_sft import recipe as recipes
    from edge_sft import strict_toml
    from edge_sft.data.recognise import draft_recipe

    if data.suffix.lower() == ".toml":
        return recipes.load(data)
    return strict_toml.loads(draft_recipe(data), recipes.Recipe, source=f"recipe for {data}")


def _page(findings: Findings, html: Path) -> None:
    from rich.markup import escape

    from edge_sft import durable
    from edge_sft.report import data_page

    durable.write_text(html, data_page.render(findings))
    console.print(f"Page: [bold]{escape(str(html))}[/]")


def _say(findings: Findings) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{findings.name}: {findings.count:,} usable pictures"), title_justify="left")
    for column in ("label", "train", "val", "test"):
        table.add_column(column, justify="left" if column == "label" else "right")
    for row in findings.balance:
        good = " (good)" if row.good else ""
        table.add_row(escape(row.label) + good, *(f"{row.counts[side]:,}" for side in ("train", "val", "test")))
    console.print(table)
    for finding in findings.findings:
        _say_one(finding, {left.id: left.reason for left in findings.quarantined})
    if not findings.findings:
        console.print("Nothing to object to.")
    console.print(f"Test split {findings.test_fingerprint}; to insist on it: data.split.frozen_test", style="dim")


def _say_one(finding: Finding, reasons: dict[str, str]) -> None:
    from rich.markup import escape

    console.print(f"[{_STYLE[finding.severity]}]{finding.severity}:[/] {escape(finding.text)} {escape(finding.remedy)}")
    if finding.severity == "note":
        return
    for name in finding.ids[:_NAMED]:
        reason = f": {reasons[name]}" if finding.kind == "unreadable" and name in reasons else ""
        console.print(f"    {escape(name + reason)}", style="dim")
    if len(finding.ids) > _NAMED:
        console.print(f"    and {len(finding.ids) - _NAMED:,} more", style="dim")

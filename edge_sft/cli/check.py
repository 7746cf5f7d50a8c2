"""`edge-sft check`: read every picture or every row and say in words what is the matter with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_sft.cli.console import console, progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_sft.data.findings import Finding, Findings
    from edge_sft.data.sensors.findings import SensorFindings
    from edge_sft.recipe import Recipe
    from edge_sft.sensor_recipe import SensorRecipe

_NAMED = 8  # pictures or files named under one finding; the page names them all
_STYLE = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_SIDES = ("train", "val", "test")


def check(
    data: Annotated[
        Path, typer.Argument(help="A recipe, or the folder, manifest or file of readings you would give to init.")
    ],
    html: Annotated[
        Path | None, typer.Option(help="Also write a page: pictures concerned, or a chart a channel.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A trained checkpoint: find labels of pictures that its model doubts.")
    ] = None,
) -> None:
    """Read all pictures or sensor readings; tell what is broken, double, contradictory, rare, stuck or odd.

    Ends with 3 if there are errors.
    """
    from edge_sft.data.sensors.telling import holds_sensor_data
    from edge_sft.sensor_recipe import is_sensor_recipe

    is_recipe = data.suffix.lower() == ".toml"
    if is_sensor_recipe(data) if is_recipe else holds_sensor_data(data):
        failed = _check_sensors(data, html, checkpoint)
    else:
        failed = _check_pictures(data, html, checkpoint)
    if failed:
        raise typer.Exit(3)


def _check_pictures(data: Path, html: Path | None, checkpoint: Path | None) -> bool:
    from edge_sft.checkpoint import read_scores
    from edge_sft.data.checking import check as judge
    from edge_sft.data.reader import open_dataset
    from edge_sft.report import data_page

    recipe = _recipe(data)
    scores = None if checkpoint is None else read_scores(checkpoint)
    with progress() as bar:
        findings = judge(recipe, open_dataset(recipe, bar), bar, scores=scores)
    _say(findings)
    if html is not None:
        _page(data_page.render(findings), html)
    return findings.has_errors


def _check_sensors(data: Path, html: Path | None, checkpoint: Path | None) -> bool:
    from edge_sft.data.sensors.checking import check_sensors
    from edge_sft.data.sensors.reader import open_sensor_dataset
    from edge_sft.errors import UserError
    from edge_sft.report import sensor_data_page

    if checkpoint is not None:
        raise UserError("--checkpoint", "is for pictures", "Leave it out: sensor labels are judged in the report.")
    recipe = _sensor_recipe(data)
    with progress() as bar:
        findings = check_sensors(recipe, open_sensor_dataset(recipe, bar), bar)
    _say_sensors(findings)
    if html is not None:
        _page(sensor_data_page.render(findings), html)
    return findings.has_errors


def _recipe(data: Path) -> Recipe:
    from edge_sft import recipe as recipes
    from edge_sft import strict_toml
    from edge_sft.data.recognise import draft_recipe

    if data.suffix.lower() == ".toml":
        return recipes.load(data)
    return strict_toml.loads(draft_recipe(data), recipes.Recipe, source=f"recipe for {data}")


def _sensor_recipe(data: Path) -> SensorRecipe:
    from edge_sft import sensor_recipe as recipes
    from edge_sft import strict_toml
    from edge_sft.data.sensors.drafting import draft_sensor_recipe

    if data.suffix.lower() == ".toml":
        return recipes.load(data)
    return strict_toml.loads(draft_sensor_recipe(data), recipes.SensorRecipe, source=f"recipe for {data}")


def _page(text: str, html: Path) -> None:
    from rich.markup import escape

    from edge_sft import durable

    durable.write_text(html, text)
    console.print(f"Page: [bold]{escape(str(html))}[/]")


def _say(findings: Findings) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{findings.name}: {findings.count:,} usable pictures"), title_justify="left")
    for column in ("label", *_SIDES):
        table.add_column(column, justify="left" if column == "label" else "right")
    for row in findings.balance:
        good = " (good)" if row.good else ""
        table.add_row(escape(row.label) + good, *(f"{row.counts[side]:,}" for side in ("train", "val", "test")))
    console.print(table)
    _say_all(findings.findings, {left.id: left.reason for left in findings.quarantined})
    console.print(f"Test split {findings.test_fingerprint}; to insist on it: data.split.frozen_test", style="dim")


def _say_sensors(findings: SensorFindings) -> None:
    from rich.markup import escape
    from rich.table import Table

    title = f"{findings.name}: {findings.rows:,} usable rows of {len(findings.channels)} channels"
    table = Table(title=escape(title), title_justify="left")
    table.add_column("")
    for side in _SIDES:
        table.add_column(side, justify="right")
    for name in ("groups", "runs", "rows"):
        table.add_row(name, *(f"{getattr(side, name):,}" for side in findings.sides))
    for row in findings.labels:
        table.add_row(f"rows of {escape(row.label)}", *(f"{row.rows[side]:,}" for side in ("train", "val", "test")))
    console.print(table)
    _say_all(findings.findings, {left.id: left.reason for left in findings.quarantined})
    console.print(f"Data set {findings.fingerprint}", style="dim")


def _say_all(findings: tuple[Finding, ...], reasons: Mapping[str, str]) -> None:
    for finding in findings:
        _say_one(finding, reasons)
    if not findings:
        console.print("Nothing to object to.")


def _say_one(finding: Finding, reasons: Mapping[str, str]) -> None:
    from rich.markup import escape

    console.print(f"[{_STYLE[finding.severity]}]{finding.severity}:[/] {escape(finding.text)} {escape(finding.remedy)}")
    if finding.severity == "note":
        return
    for name in finding.ids[:_NAMED]:
        reason = f": {reasons[name]}" if finding.kind == "unreadable" and name in reasons else ""
        console.print(f"    {escape(name + reason)}", style="dim")
    if len(finding.ids) > _NAMED:
        console.print(f"    and {len(finding.ids) - _NAMED:,} more", style="dim")

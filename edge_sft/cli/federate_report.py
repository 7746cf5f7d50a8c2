"""`edge-sft federate report RUN` and `… verify RUN`: what a run came to, and whether its record holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_sft.cli.console import console
from edge_sft.errors import DataError, UserError

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its name at this coordinator.")]
Directory = Annotated[Path | None, typer.Option("--dir", help="The federation's folder.")]


def report(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="HTML file to write; default report.html in the run.")] = None,
    directory: Directory = None,
) -> None:
    """Write a federated run's report: one HTML file. It may still be going, or have failed."""
    from edge_sft import durable
    from edge_sft.federated import report as pages

    folder = _folder(run, directory)
    target = out or folder / pages.PAGE
    durable.write_text(target, pages.of_run(folder))
    console.print(f"Report  {target}", soft_wrap=True, markup=False)


def verify(
    run: Run,
    ledger: Annotated[
        list[Path] | None,
        typer.Option("--ledger", help="A site's folder (or its ledger.jsonl) to hold against the record."),
    ] = None,
    directory: Directory = None,
) -> None:
    """Check that the record of a run, or of a site's folder, was not changed, and that sites' ledgers agree with it."""
    from edge_sft.federated.report_verify import verify as verified

    found = verified(_folder(run, directory), ledger or ())
    for one in found:
        console.print(f"{'holds ' if one.holds else 'BROKEN'}  {one.thing}: {one.words}", soft_wrap=True, markup=False)
    broken = [one for one in found if not one.holds]
    if broken:
        raise DataError(
            broken[0].thing,
            broken[0].words,
            "Do not rely on this run; keep the files as they are and ask who had them.",
        )


def _folder(run: str, directory: Path | None) -> Path:
    """Return a run's folder: as given, else by its name at the coordinator."""
    from edge_sft.cli.paths import federation_directory

    if Path(run).is_dir():
        return Path(run)
    runs = (directory or federation_directory()) / "runs"
    if (runs / run).is_dir() and Path(run).name == run:
        return runs / run
    known = ", ".join(sorted(path.name for path in runs.glob("*") if path.is_dir())) if runs.is_dir() else ""
    raise UserError(
        f"the run {run}",
        f"is no folder, and no run in {runs}",
        f"Known there: {known}." if known else "Give the folder of a run.",
    )

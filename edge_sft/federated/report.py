"""A federated run's report: one HTML file, made from the run's directory whether it finished, failed or goes on."""

from __future__ import annotations

from pathlib import Path

from edge_sft.federated.report_curves import curves
from edge_sft.federated.report_facts import Run, read
from edge_sft.federated.report_measure import choose
from edge_sft.federated.report_origin import origin, setup
from edge_sft.federated.report_story import happened, headline, lede
from edge_sft.federated.report_table import cross, sides
from edge_sft.federated.report_traffic import bytes_moved, participation
from edge_sft.report.page import page

PAGE = "report.html"


def of_run(directory: Path) -> str:
    """Return the page of a run directory.

    Raises:
        DataError: It is no run directory.
    """
    return render(read(directory))


def render(run: Run) -> str:
    """Return the text of one self-contained HTML file."""
    measure = choose(run)
    body = [
        happened(run, measure),
        sides(run, measure),
        curves(run, measure),
        cross(run, measure),
        participation(run),
        bytes_moved(run),
        setup(run),
        origin(run),
    ]
    named = f"{run.recipe} · {run.name}" if run.recipe and run.recipe != run.name else run.name
    return page(
        title=f"{named} · federated",
        kicker=f"{named} · federated run",
        headline=headline(run, measure),
        lede=lede(run),
        body=[part for part in body if part is not None],
        footer=f"{named} · one file, no script, nothing is loaded from anywhere",
    )

"""Files of rows as a deployed model's recipe reads them: to commission a machine, or to decide about recordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edge_sft.data.sensors.columns import Part, parts_of, wanted
from edge_sft.data.sensors.joining import join
from edge_sft.data.sensors.listing import list_files
from edge_sft.data.sensors.tables import Table, read_tables
from edge_sft.errors import DataError, DeviceError
from edge_sft.progress import Progress, Silent
from edge_sft.sensor_recipe import SensorRecipe


def read_recordings(
    recipe: SensorRecipe,
    paths: Sequence[Path],
    tell: Callable[[str], None],
    progress: Progress = Silent(),  # noqa: B008
) -> list[Part]:
    """Read files as training would, labels aside.

    Args:
        recipe: Says what the columns mean.
        paths: Files of rows, or folders of them.
        tell: Told what is left out, and which file lacks a channel, a line each; the rest goes on.
        progress: Told about every file.

    Raises:
        DataError: Nothing of it can be used.
        DeviceError: It is of a type that needs a package which is missing.
    """
    found: list[Part] = []
    reasons: list[str] = []
    columns = wanted(recipe.data)
    lacking: DeviceError | None = None
    files = [one for path in paths for one in list_files(path, recipe.data.pattern).files]
    progress.start("Reading files", len(files))
    for name, file in files:
        tables: list[Table] | str
        try:
            tables = read_tables(file, name, columns, lambda rows: progress.advance(0, note=f"{rows:,} rows"))
        except DeviceError as error:
            lacking, tables = error, f"cannot be read on this machine ({error})"
        for cut in [tables] if isinstance(tables, str) else [parts_of(table, recipe) for table in tables]:
            if isinstance(cut, str):
                reasons.append(f"{name} {cut}")
                tell(f"left out: {reasons[-1]}")
            else:
                found += cut
        progress.advance()
    if not found:
        if lacking is not None:
            raise lacking
        reason = reasons[0] if reasons else "none were given"
        raise DataError("the files", f"hold no usable rows: {reason}", "Give files with the columns of the recipe.")
    for part_file, names in sorted({(part.file, part.missing) for part in found if part.missing}):
        tell(f"{part_file} has no column for {', '.join(names)}: goes on without")
    return join(found, recipe.data.run)


def named(part: Part) -> str:
    """Return the machine that a recording's rows name, "" where they name none."""
    return part.asset or part.group


def machine(part: Part) -> str:
    """Return what a recording's machine is called, by its file where nothing else names it."""
    return named(part) or part.run or part.file

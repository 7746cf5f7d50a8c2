"""For a simulation: one pool of data cut into a folder for each site, as a site would have it.

Pictures keep the split that the pool has, so that a model of the pooled data can be compared on the very same test
pictures; each site's rows are split by the recipe on their own.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_sft.errors import DataError, UserError
from edge_sft.federated import partition as cutting
from edge_sft.progress import Progress
from edge_sft.recipe import Recipe
from edge_sft.recipe import load as load_recipe
from edge_sft.sensor_recipe import SensorRecipe, is_sensor_recipe
from edge_sft.sensor_recipe import load as load_sensors

if TYPE_CHECKING:
    from edge_sft.data.dataset import Dataset
    from edge_sft.data.sensors.dataset import SensorDataset

Partition = dict[str, str]


def lay_out(recipe: Path, how: str, sites: int, seed: int, out: Path, progress: Progress) -> dict[str, Path]:
    """Cut a recipe's data into sites.

    Args:
        recipe: The recipe's file; its data are the pool.
        how: ``group``, ``dirichlet(0.5)``, or a partition file.
        sites: How many; a partition file names its own.
        seed: Of the cut.
        out: Gets ``partition.csv`` and ``<site>/data``; what is there already is used as it is.
        progress: Told how far reading is.

    Returns:
        Each site's data folder, by name.

    Raises:
        UserError: No such way to cut, or data that cannot be cut so.
        DataError: Data that are none, or a partition that is of others.
    """
    settled = out / "partition.csv"
    whole = settled.is_file()
    cut = cutting.read(settled.read_text(encoding="utf-8"), source=str(settled)) if whole else {}
    if not whole:
        pool = _Pool(recipe, progress)
        cut = _cut(pool, how, sites, seed)
        out.mkdir(parents=True, exist_ok=True)
        for site in sorted(set(cut.values())):
            shutil.rmtree(out / site / "data", ignore_errors=True)
            pool.write(site, cut, out / site / "data")
        settled.write_text(cutting.write(cut), encoding="utf-8")  # last: what makes the folders whole
    return {site: out / site / "data" for site in sorted(set(cut.values()))}


class _Pool:
    """A recipe's data, of either kind: samples' ids, groups and labels, and how a site's part is written."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self._pictures: Dataset | None = None
        self._rows: SensorDataset | None = None
        self.recipe: Recipe | SensorRecipe
        if is_sensor_recipe(path):
            from edge_sft.data.sensors.reader import open_sensor_dataset

            self.recipe = sensors = load_sensors(path)
            self._rows = open_sensor_dataset(sensors, progress)
        else:
            from edge_sft.data.reader import open_dataset

            self.recipe = pictures = load_recipe(path)
            self._pictures = open_dataset(pictures, progress)

    def groups(self) -> Partition:
        """Return each sample's group; a picture without one is its own."""
        if self._pictures is not None:
            return {item.id: item.group or item.id for item in self._pictures.items}
        return {run.id: run.group for run in self._rows.runs} if self._rows is not None else {}

    def sides(self) -> Partition:
        """Return for each sample whether it is of the test split: each site needs some of both."""
        kept = self._pictures.items if self._pictures is not None else self._rows.runs if self._rows else ()
        return {one.id: "test" if one.split == "test" else "rest" for one in kept}

    def labels(self) -> Partition:
        """Return each sample's label, of a run the most frequent one. Raises UserError: there are none."""
        if self._pictures is not None:
            return {item.id: item.label for item in self._pictures.items}
        rows: Any = self._rows
        if not rows.labels or any(run.labels is None for run in rows.runs):
            raise UserError("dirichlet", "cuts by labels, and these rows have none", "Take --partition by=group.")
        return {run.id: str(Counter(run.labels.tolist()).most_common(1)[0][0]) for run in rows.runs}

    def write(self, site: str, cut: Partition, data: Path) -> None:
        """Write a site's part."""
        mine = {sample for sample, where in cut.items() if where == site}
        data.mkdir(parents=True)
        if self._pictures is not None and isinstance(self.recipe, Recipe):
            _write_pictures(self.recipe, self._pictures, mine, data)
        elif self._rows is not None and isinstance(self.recipe, SensorRecipe):
            _write_rows(self.recipe, self._rows, cut, site, data)


def _cut(pool: _Pool, how: str, sites: int, seed: int) -> Partition:
    kind, alpha = cutting.parse(how)
    groups = pool.groups()
    if kind == "group":
        sides = pool.sides()
        parts = [{one: group for one, group in groups.items() if sides[one] == side} for side in ("rest", "test")]
        if any(len(set(part.values())) < sites for part in parts):
            parts = [groups]  # too few test groups for each site to get one; sites split their own where they can
        return {one: where for part in parts for one, where in cutting.by_group(part, sites, seed).items()}
    if kind == "dirichlet":
        return cutting.by_classes(pool.labels(), sites, alpha, seed, least=4, groups=groups)
    path = Path(how)
    if not path.is_file():
        raise UserError(how, "does not exist", "Name a partition file: CSV with the columns id and site.")
    found = cutting.read(path.read_text(encoding="utf-8"), source=how)
    strange = sorted(set(found) - set(groups))
    if strange:
        raise DataError(how, f"names {len(strange)} samples that are not there, as {strange[0]}", "Cut the data anew.")
    return found


def _write_pictures(recipe: Recipe, pool: Dataset, mine: set[str], data: Path) -> None:
    items = [item for item in pool.items if item.id in mine]
    if recipe.data.manifest is None:
        for item in items:
            _link(item.path, data / item.split / item.label / item.id.replace("/", "__"))
        return
    with (data / Path(recipe.data.manifest).name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split", "group", "part_id", "weight"))
        for item in items:
            _link(item.path, data / item.id)
            row = (item.id, item.label, item.split, item.given_group or "", item.part_id or "", item.weight)
            writer.writerow(row)


def _write_rows(recipe: SensorRecipe, pool: SensorDataset, cut: Partition, site: str, data: Path) -> None:
    from edge_sft.data.sensors.listing import list_files

    section = recipe.data
    if section.events is not None:
        _link(Path(section.events.path), data / Path(section.events.path).name)
    log = () if section.events is None else (Path(section.events.path),)
    whose: dict[str, set[str]] = {}
    for name, _ in list_files(Path(section.path), section.pattern, without=log).files:
        whose[name] = {where for run, where in cut.items() if run == name or run.startswith(f"{name}/")}
    if section.run.startswith("file:"):
        raise UserError("data.run", "joins several files into a run, which is not cut into sites", "Cut by hand.")
    for name, path in list_files(Path(section.path), section.pattern, without=log).files:
        if whose[name] == {site}:
            _link(path, data / name)
        elif site in whose[name]:
            _filter(recipe, path, name, cut, site, data / name)


def _filter(recipe: SensorRecipe, path: Path, name: str, cut: Mapping[str, str], site: str, out: Path) -> None:
    """Copy the rows of a CSV file that are a site's."""
    column = recipe.data.run or recipe.data.group
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            separator = recipe.data.separator or max(",;\t", key=head.count)
            at = [cell.strip().strip('"') for cell in head.rstrip("\r\n").split(separator)].index(column)
            kept = [line for line in file if cut.get(f"{name}/{_cell(line, separator, at)}") == site]
    except (OSError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise UserError(
            str(path), "holds runs of several sites and is no CSV that can be cut", "Give each run a file of its own."
        ) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(head + "".join(kept), encoding="utf-8")


def _cell(line: str, separator: str, at: int) -> str:
    return line.rstrip("\r\n").split(separator)[at].strip().strip('"')


def _link(source: Path, target: Path) -> None:
    """Put a file where a site has it, without copying its content where the disk allows."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)

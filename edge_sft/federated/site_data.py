"""From one pool and a partition to a data folder for each simulated site; files are linked, or copied across disks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from edge_sft import recipe as recipes
from edge_sft import sensor_recipe
from edge_sft.errors import DataError, UserError
from edge_sft.federated import partition
from edge_sft.progress import Progress, Silent

FILE = "partition.csv"
_SILENT = Silent()


def materialise(
    recipe: Path, by: str, sites: int, seed: int, out: Path, *, progress: Progress = _SILENT
) -> dict[str, Path]:
    """Cut a recipe's data into sites and lay out a folder for each.

    Args:
        recipe: The recipe; its data are the pool.
        by: ``group``, ``dirichlet(0.5)`` (pictures only) or a partition file.
        sites: How many; a file tells itself.
        seed: Of the cut.
        out: Gets ``partition.csv`` and ``<site>/data``; folders that are there already are taken as they are.
        progress: Told how far reading is.

    Returns:
        Site → its data folder, by name. Pictures keep their split; sensor files are split again at each site.

    Raises:
        UserError: No such partition, or one that these data cannot be cut by.
        DataError: Samples that the partition does not name, or a file of several sites.
    """
    if sensor_recipe.is_sensor_recipe(recipe):
        found, files = _sensors(recipe, by, sites, seed, progress)
    else:
        found, files = _pictures(recipe, by, sites, seed, progress)
    unknown = sorted(set(files) - set(found))
    if unknown:
        raise DataError(by, f"names no site for {len(unknown)} samples, first {unknown[0]}", "Add them.")
    out.mkdir(parents=True, exist_ok=True)
    (out / FILE).write_text(partition.write({sample: found[sample] for sample in files}))
    folders: dict[str, Path] = {}
    for sample, (source, place) in sorted(files.items()):
        folder = folders.setdefault(found[sample], out / found[sample] / "data")
        _lay(source, folder / place)
    return dict(sorted(folders.items()))


Files = dict[str, tuple[Path, str]]  # sample id → its file, and where it lies in the site's folder


def _pictures(recipe: Path, by: str, sites: int, seed: int, progress: Progress) -> tuple[Mapping[str, str], Files]:
    from edge_sft.data.reader import open_dataset

    dataset = open_dataset(recipes.load(recipe), progress)
    kind, alpha = partition.parse(by)
    groups = {item.id: item.group or item.id for item in dataset.items}
    found: Mapping[str, str]
    if kind == "file":
        found = _read(by)
    elif kind == "group":
        found = partition.by_group(groups, sites, seed)
    else:
        labels = {item.id: item.label for item in dataset.items}
        found = partition.by_classes(labels, sites, alpha, seed, least=_least(labels, sites), groups=groups)
    # an id may have the same file name in another folder: its number keeps them apart
    files = {
        item.id: (item.path, f"{item.split}/{item.label}/{number:06d}-{item.path.name}")
        for number, item in enumerate(dataset.items)
    }
    return found, files


def _sensors(recipe: Path, by: str, sites: int, seed: int, progress: Progress) -> tuple[Mapping[str, str], Files]:
    from edge_sft.data.sensors.reader import open_sensor_dataset

    loaded = sensor_recipe.load(recipe)
    kind, _ = partition.parse(by)
    if kind == "dirichlet":
        raise UserError(f"partition '{by}'", "is for pictures: machines stay whole", 'Say "group" or name a file.')
    dataset, root = open_sensor_dataset(loaded, progress), Path(loaded.data.path)
    files = {name: (path, name) for name, path in _files(root).items()}
    owners: dict[str, str] = {}
    for run in dataset.runs:
        name = next((part for part in _prefixes(run.id) if part in files), None)
        if name is None or owners.setdefault(name, run.group) != run.group:
            fact = "is not in a file of its own, and files are what is given to sites"
            raise DataError(f"{root}: {run.group}", fact, "Cut the file by machine, or make site folders by hand.")
    found = _read(by) if kind == "file" else partition.by_group(owners, sites, seed)
    return found, {name: files[name] for name in owners}


def _files(root: Path) -> dict[str, Path]:
    if root.is_file():
        return {root.name: root}
    return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}


def _prefixes(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _least(labels: Mapping[str, str], sites: int) -> int:
    """Return how many of each class every site gets at least: a few to learn from, to choose by and to be judged by."""
    told = list(labels.values())
    rarest = min(told.count(label) for label in set(told))
    return max(1, min(20, rarest // sites))


def _read(by: str) -> dict[str, str]:
    try:
        return partition.read(Path(by).read_text(encoding="utf-8"), source=by)
    except OSError as error:
        raise UserError(f"partition '{by}'", f"cannot be read ({error.strerror})", "Check the path.") from error


def _lay(source: Path, place: Path) -> None:
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, place)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, place)

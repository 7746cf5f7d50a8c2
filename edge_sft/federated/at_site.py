"""A recipe as it stands at a site: the site's own folder takes the place of the data that the recipe names.

What else of the data the recipe names by file (a manifest of pictures, a log of failures) is looked for in that folder,
by its name. A site need not have every label: others may, and that is what learning together is for.
"""

from __future__ import annotations

from pathlib import Path

from edge_sft.data.dataset import Dataset
from edge_sft.data.sensors.dataset import SensorDataset
from edge_sft.federated import site_labels
from edge_sft.progress import Progress
from edge_sft.recipe import Recipe
from edge_sft.sensor_recipe import SensorRecipe


def pictures_at(recipe: Recipe, data: Path) -> Recipe:
    """Return a recipe for pictures over the site's folder."""
    manifest = None if recipe.data.manifest is None else str(data / Path(recipe.data.manifest).name)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": str(data), "manifest": manifest})})


def rows_at(recipe: SensorRecipe, data: Path) -> SensorRecipe:
    """Return a recipe for rows over the site's folder, or over its one file."""
    section = recipe.data.model_copy(update={"path": str(data)})
    if section.events is not None:
        folder = data if data.is_dir() else data.parent
        events = section.events.model_copy(update={"path": str(folder / Path(section.events.path).name)})
        section = section.model_copy(update={"events": events})
    return recipe.model_copy(update={"data": section})


def open_pictures(recipe: Recipe, progress: Progress) -> Dataset:
    """Read a site's pictures by a recipe of `pictures_at`, which may lack labels.

    Raises:
        DataError: What `edge_sft.data.reader.open_dataset` refuses, or pictures of a single label to train on.
    """
    from edge_sft.data.reader import open_dataset

    dataset = open_dataset(recipe, progress, partial=True)
    site_labels.refuse(recipe, dataset)
    return dataset


def open_rows(recipe: SensorRecipe, progress: Progress) -> SensorDataset:
    """Read a site's rows by a recipe of `rows_at`, which may lack labels.

    Raises:
        DataError: What `edge_sft.data.sensors.reader.open_sensor_dataset` refuses, a single label to train on, or a
            single machine where machines must be held out.
    """
    from edge_sft.data.sensors.reader import open_sensor_dataset

    dataset = open_sensor_dataset(recipe, progress, partial=True)
    site_labels.refuse(recipe, dataset)
    return dataset

"""A recipe as it stands at a site: the site's own folder takes the place of the data that the recipe names.

What else of the data the recipe names by file (a manifest of pictures, a log of failures) is looked for in that folder,
by its name.
"""

from __future__ import annotations

from pathlib import Path

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

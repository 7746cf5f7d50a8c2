"""From a recipe's text and a site's folder to a learner."""

from __future__ import annotations

import sys
from pathlib import Path

from edge_sft import strict_toml
from edge_sft.errors import UserError
from edge_sft.federated.at_site import open_pictures, open_rows, pictures_at, rows_at
from edge_sft.federated.learner import Learner
from edge_sft.progress import Progress
from edge_sft.recipe import HUGGING_FACE, Recipe
from edge_sft.sensor_recipe import SensorRecipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SOURCE = "the coordinator's recipe"


def open_learner(recipe_text: str, data: Path, work: Path, progress: Progress) -> Learner:
    """Do what `edge_sft.federated.learners.make_learner` says."""
    try:
        modality = tomllib.loads(recipe_text).get("modality")
    except tomllib.TOMLDecodeError as error:
        raise UserError(_SOURCE, f"is not valid TOML: {error}", "Ask the coordinator for another.") from error
    if modality == "window":
        return _of_sensors(recipe_text, data, work, progress)
    return _of_pictures(recipe_text, data, work, progress)


def _of_pictures(text: str, data: Path, work: Path, progress: Progress) -> Learner:
    from edge_sft.federated.learners.pictures import PictureLearner

    recipe = strict_toml.loads(text, Recipe, source=_SOURCE)
    local = recipe.model.weights not in (None, "random") or recipe.model.backbone.startswith(HUGGING_FACE)
    if local:
        fact = "names a file of the coordinator's machine, which sites do not have"
        raise UserError("the recipe's [model]", fact, "Take a backbone that is installed with edge-sft at every site.")
    recipe = pictures_at(recipe, data)
    return PictureLearner(recipe, open_pictures(recipe, progress), text, work, progress)


def _of_sensors(text: str, data: Path, work: Path, progress: Progress) -> Learner:
    recipe = rows_at(strict_toml.loads(text, SensorRecipe, source=_SOURCE), data)
    dataset = open_rows(recipe, progress)
    if recipe.task.kind == "regression":
        from edge_sft.federated.learners.remaining_life import RemainingLife

        return RemainingLife(recipe, dataset, text, work)
    if recipe.task.kind == "classification":
        from edge_sft.federated.learners.faults import FaultLearner

        return FaultLearner(recipe, dataset, text, work, progress)
    from edge_sft.federated.learners.anomaly import EncoderLearner

    return EncoderLearner(recipe, dataset, text, work)

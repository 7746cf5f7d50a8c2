"""What only a simulation can tell: a model of all sites' data in one place, and each site's model on the others' data.

The pool is the sites' folders with the splits that the sites have, so that no model is judged on what it learnt from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from edge_sft import durable
from edge_sft.errors import UserError
from edge_sft.federated.client import MakeLearner
from edge_sft.federated.learner import Judged, Learner
from edge_sft.federated.run_store import FACTS, RESULT, RunStore
from edge_sft.federated.site_store import SiteStore
from edge_sft.progress import Progress

TrainCentrally = Callable[[str, Mapping[str, Path], Path, Progress], None]
CENTRAL: Final = "central"


def compare(
    store: RunStore,
    progress: Progress,
    *,
    central: bool,
    cross: bool,
    make: MakeLearner | None = None,
    train: TrainCentrally | None = None,
) -> None:
    """Write into a finished simulation's federated.json what a plant could not know.

    Args:
        store: The run, with its sites' folders.
        progress: Told how far it is.
        central: Train on the pool as `edge-sft train` does (kept in the run's ``central``), and judge that model on
            each site's validation and test split.
        cross: Judge each site's own model on every site's test split.
        make: Makes a recipe's learner; None = those of edge-sft.
        train: Trains centrally; None = as edge-sft does.

    Raises:
        UserError: Training on the pool is refused, or sites have no test split.
        DataError: A site ended without a model of its own.
    """
    if not central and not cross:
        return
    path = store.folder / RESULT / FACTS
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    recipe, score = store.recipe(), str(facts["score"])
    folders = {site: store.folder / "sites" / site for site in facts["sites"]}
    ends = {site: SiteStore(folder, store.run) for site, folder in folders.items() if facts["sites"][site]["finished"]}
    if central:
        datas = {site: folder / "data" for site, folder in folders.items()}
        (train or train_on_pool)(recipe, datas, store.folder / CENTRAL, progress)
    matrix: dict[str, dict[str, float]] = {site: {} for site in ends}
    for site, end in ends.items():
        learner = _learner(recipe, folders[site] / "data", end, progress, make)
        if central:
            facts["sites"][site][CENTRAL] = _central(learner, store.folder / CENTRAL)
        for other, number in _others(learner, ends, score).items() if cross else ():
            matrix[other][site] = number
    if cross and not any(matrix.values()):
        fact = "asks for each model's worth on the sites' test splits, and there is none"
        raise UserError("federated.cross_site", fact, "Name a test split in the recipe's [data], or remove it.")
    if cross:
        facts["cross_site"] = matrix
    durable.write_text(path, json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _others(learner: Learner, ends: Mapping[str, SiteStore], score: str) -> dict[str, float]:
    """Return what each site's own model is worth on this site's test split."""
    judged = {name: learner.judge_checkpoint(end.checkpoint, "test") for name, end in ends.items()}
    return {name: one.numbers.get(score, one.score) for name, one in judged.items() if one.samples}


def train_on_pool(recipe: str, datas: Mapping[str, Path], out: Path, progress: Progress) -> None:
    """Train on all sites' data together, as `edge-sft train` does.

    Args:
        recipe: Its text.
        datas: Each site's data, by name.
        out: The checkpoint; a finished one is kept.
        progress: Told how far it is.

    Raises:
        UserError: The recipe cannot be trained with these data.
        DataError: Data that do not fit.
    """
    from edge_sft.federated.settings import read_recipe
    from edge_sft.sensor_recipe import SensorRecipe

    loaded = read_recipe(recipe)
    if isinstance(loaded, SensorRecipe):
        _rows_together(loaded, recipe, datas, out, progress)
    else:
        _pictures_together(loaded, recipe, datas, out, progress)


def _rows_together(recipe: Any, text: str, datas: Mapping[str, Path], out: Path, progress: Progress) -> None:
    from edge_sft.federated.at_site import open_rows, rows_at
    from edge_sft.training.sensors.fit import fit_sensors

    parts = {site: open_rows(rows_at(recipe, data), progress) for site, data in datas.items()}
    runs = _sorted(replace(run, id=f"{site}/{run.id}") for site, part in parts.items() for run in part.runs)
    pool = replace(next(iter(parts.values())), root=out.parent / "sites", runs=runs, partial=False)
    fit_sensors(recipe, pool, out, recipe_text=text, progress=progress)


def _pictures_together(recipe: Any, text: str, datas: Mapping[str, Path], out: Path, progress: Progress) -> None:
    from edge_sft.data.dataset import Dataset
    from edge_sft.federated.at_site import open_pictures, pictures_at
    from edge_sft.training.fit import fit

    parts = {site: open_pictures(pictures_at(recipe, data), progress) for site, data in datas.items()}
    items = _sorted(replace(item, id=f"{site}/{item.id}") for site, part in parts.items() for item in part.items)
    fit(recipe, Dataset(out.parent / "sites", recipe.task.labels, items), out, recipe_text=text, progress=progress)


def _sorted(found: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(found, key=lambda one: str(one.id)))


def _central(learner: Learner, checkpoint: Path) -> dict[str, dict[str, float]]:
    judged: dict[str, Judged] = {split: learner.judge_checkpoint(checkpoint, split) for split in ("val", "test")}
    return {split: {**one.numbers, "samples": float(one.samples)} for split, one in judged.items() if one.samples}


def _learner(recipe: str, data: Path, end: SiteStore, progress: Progress, make: MakeLearner | None) -> Learner:
    if make is None:
        from edge_sft.federated.learners import make_learner

        make = make_learner
    return make(recipe, data, end.work, progress)

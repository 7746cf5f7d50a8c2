"""What a site lacks and may lack: labels that other sites have, machines to hold out. Pure functions of its data.

- A label without training samples here: the site learns to tell apart those that it has, and leaves what the others
  taught about it alone. What it learns by itself alone cannot know that label.
- A label without validation or test samples here: nothing at this site proves what the model makes of it.
- One label alone: nothing can be told apart, and an update would only say "always this". Refused.
- No healthy label: what is scrapped needlessly cannot be judged here, and the threshold rests on costs alone. Said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from edge_sft.data.dataset import Dataset, SplitName
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.errors import DataError
from edge_sft.recipe import Recipe
from edge_sft.sensor_recipe import FaultTask, RulTask, SensorRecipe

_FEWEST: Final = 2  # labels to tell apart; machines of which one is held out
_SHOWN: Final = 8


@dataclass(frozen=True)
class Lacks:
    """Labels of the task, in its order, of which a site has no sample in a split."""

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, list[str]]:
        """What a checkpoint says of it; nothing where nothing lacks."""
        sides = {"train": self.train, "val": self.val, "test": self.test}
        return {side: list(labels) for side, labels in sides.items() if labels}


def lacks(recipe: Recipe | SensorRecipe, dataset: Dataset | SensorDataset) -> Lacks:
    """Return which of the recipe's labels a site lacks; nothing for a task without labels to tell apart."""
    labels = _labels(recipe)
    return Lacks(*(_absent(labels, dataset, split) for split in ("train", "val", "test")))


def refuse(recipe: Recipe | SensorRecipe, dataset: Dataset | SensorDataset) -> None:
    """Refuse what cannot be learnt from.

    Raises:
        DataError: Training samples of fewer than two labels, or of fewer than two machines.
    """
    labels, where = _labels(recipe), str(dataset.root)
    absent = _absent(labels, dataset, "train")
    if labels and len(labels) - len(absent) < _FEWEST:
        left = [label for label in labels if label not in absent]
        fact = f"has only '{left[0]}' to train on" if left else "has nothing with a label to train on"
        raise DataError(
            where,
            f"{fact}: a site tells apart what it has, and one label alone cannot be learnt or judged",
            f"Add some of {_names(absent)}; two labels are enough, the other sites bring the rest.",
        )
    if isinstance(recipe, SensorRecipe) and isinstance(dataset, SensorDataset):
        _refuse_one_machine(recipe, dataset)


def remarks(recipe: Recipe | SensorRecipe, missing: Lacks) -> list[tuple[str, str]]:
    """Return what a site must be told of the labels that it lacks: pairs of fact and remedy."""
    found = []
    if missing.train:
        fact = (
            f"nothing to train on of {_names(missing.train)}: what this site's model knows of it comes from the other "
        )
        fact += "sites, and a model of this site's data alone cannot know it"
        found.append((fact, "Add some if there are any; it is no reason not to join."))
    for use, labels in (("chooses and gates by", missing.val), ("reports on", missing.test)):
        if labels:
            fact = f"{_names(labels)} is not among what this site {use}: what the model makes of it is not proved here"
            found.append((fact, "Numbers are over the labels that are present."))
    healthy = _healthy(recipe)
    faulty = tuple(label for label in _labels(recipe) if label not in healthy)
    for kind, labels in (("good", healthy), ("faulty", faulty)):
        if healthy and faulty and set(labels) <= set(missing.val):
            fact = f"nothing {kind} to validate on: the threshold will rest on the recipe's costs alone"
            found.append((fact, f"Add some of {_names(labels)} before this site's model decides anything."))
    return found


def _labels(recipe: Recipe | SensorRecipe) -> tuple[str, ...]:
    if isinstance(recipe, SensorRecipe):
        return recipe.task.labels if isinstance(recipe.task, FaultTask) else ()
    return recipe.task.labels


def _healthy(recipe: Recipe | SensorRecipe) -> tuple[str, ...]:
    if isinstance(recipe, SensorRecipe):
        return recipe.task.ok if isinstance(recipe.task, FaultTask) else ()
    return tuple(recipe.ok_labels)


def _absent(labels: Sequence[str], dataset: Dataset | SensorDataset, split: SplitName) -> tuple[str, ...]:
    if isinstance(dataset, SensorDataset):
        rows = [run.labels for run in dataset.split(split) if run.labels is not None]
        present = {labels[number] for one in rows for number in np.unique(one) if 0 <= number < len(labels)}
    else:
        present = {item.label for item in dataset.split(split)}
    return tuple(label for label in labels if label not in present)


def _refuse_one_machine(recipe: SensorRecipe, dataset: SensorDataset) -> None:
    """Fewer machines than ``train.folds`` are folds enough; of one nothing can be held out."""
    if isinstance(recipe.task, RulTask):
        what, known = "training machines whose remaining life is known", _lived
    elif isinstance(recipe.task, FaultTask):
        what, known = "training machines with a label", _labelled
    else:
        return
    count = len({run.group for run in dataset.split("train") if known(run)})
    if count < _FEWEST:
        raise DataError(
            str(dataset.root),
            f"has {count} {what}, and one must be held out to know what it learns of others: {_FEWEST} are needed",
            "Add machines, or name the column or file pattern that tells them apart (data.group).",
        )


def _lived(run: Run) -> bool:
    return run.rul is not None and bool(np.isfinite(run.rul).any())


def _labelled(run: Run) -> bool:
    return run.labels is not None and bool((run.labels >= 0).any())


def _names(labels: Sequence[str]) -> str:
    shown = ", ".join(f"'{label}'" for label in labels[:_SHOWN])
    return f"{shown} and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else shown

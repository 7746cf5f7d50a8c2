"""Which split a model's page speaks of, and what was found there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from edge_sft.checkpoint import CheckpointMeta, Scores
from edge_sft.errors import DataError
from edge_sft.metrics.classification import Evaluation, evaluate
from edge_sft.metrics.plant import PlantRates, SplitName, is_sorting, plant_rates
from edge_sft.recipe import PolicySection


@dataclass(frozen=True)
class Basis:
    """A model and the split its page speaks of: test where it can, else validation."""

    meta: CheckpointMeta
    split: SplitName
    scores: Scores
    validation: Scores | None
    section: PolicySection | None = None

    @property
    def chosen_on(self) -> Scores | None:
        """The split that chose the threshold, unless it is empty."""
        return self.validation if self.validation is not None and len(self.validation.labels) else None

    @property
    def wishes(self) -> PolicySection:
        """The recipe's ``[policy]``, or as much of it as the policy remembers."""
        policy = self.meta.rule
        costs = PolicySection(
            escape_cost=policy.escape_cost, overkill_cost=policy.overkill_cost, prevalence=policy.prevalence
        )
        return self.section or costs

    @property
    def sorting(self) -> bool:
        """Whether no label means a defect."""
        return is_sorting(self.meta.task)

    @cached_property
    def evaluation(self) -> Evaluation:
        """Accuracy and the rest on this split."""
        return evaluate(self.scores, self.meta.task)

    @cached_property
    def rates(self) -> PlantRates | None:
        """Escapes and overkill at the policy's threshold; None for sorting."""
        return plant_rates(self.scores, self.meta.task, self.meta.rule.threshold, split=self.split)

    @property
    def split_words(self) -> str:
        """The split's name in a sentence."""
        return {"test": "test", "val": "validation", "train": "training"}[self.split]


def choose_basis(meta: CheckpointMeta, scores: dict[str, Scores], section: PolicySection | None = None) -> Basis:
    """Take the test split where it has pictures (and, unless sorting, both good parts and defects).

    Raises:
        DataError: Neither split has a picture.
    """
    order: tuple[SplitName, ...] = ("test", "val", "train")
    bases = [
        Basis(meta, name, scores[name], scores.get("val"), section)
        for name in order
        if name in scores and len(scores[name].labels)
    ]
    if not bases:
        raise DataError(meta.name, "has no scored pictures to report on", "Train again with pictures in val or test.")
    return next((basis for basis in bases if _is_complete(basis)), bases[0])


def _is_complete(basis: Basis) -> bool:
    rates = basis.rates
    return rates is None or (rates.defects > 0 and rates.goods > 0)

"""Plant terms: how many defects slip through, how many good parts are scrapped, what it costs, what may be claimed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_sft.checkpoint import Scores
from edge_sft.errors import BugError
from edge_sft.metrics.cost import CostCurve, Costs, cheapest, cost_curve
from edge_sft.metrics.intervals import clopper_pearson, upper_bound
from edge_sft.policy import Policy
from edge_sft.recipe import PolicySection
from edge_sft.task import Task

SplitName = Literal["train", "val", "test"]


def is_sorting(task: Task) -> bool:
    """Tell whether no label means a defect (or none a good part): then there is neither escape nor overkill."""
    return not task.ok_labels or not task.defect_labels


def defect_scores(scores: Scores, task: Task) -> NDArray[np.float64]:
    """Return each picture's evidence for a defect [N] in [0, 1]: one minus the good labels' probabilities."""
    good = [task.labels.index(label) for label in task.ok_labels]
    evidence = 1.0 - scores.probabilities[:, good].astype(np.float64).sum(axis=1)
    return np.asarray(np.clip(evidence, 0.0, 1.0), dtype=np.float64)


def is_defect(scores: Scores, task: Task) -> NDArray[np.bool_]:
    """Return which pictures truly show a defect, bool [N]."""
    bad = np.array([label not in task.ok_labels for label in task.labels])
    return np.asarray(bad[scores.labels], dtype=np.bool_)


@dataclass(frozen=True)
class PlantRates:
    """Escapes and overkill at one threshold on one split.

    ``exact`` is true only where the bounds are a claim: equally weighted pictures that did not choose the
    threshold (the test split). Elsewhere rate and bounds describe, they promise nothing.
    Rates are shares in [0, 1], None where there are no such pictures; bounds are two-sided 95 %.
    """

    split: SplitName
    threshold: float
    exact: bool
    defects: int
    escaped: int
    escape_rate: float | None
    escape_low: float
    escape_high: float
    goods: int
    scrapped: int
    overkill_rate: float | None
    overkill_low: float
    overkill_high: float


def plant_rates(scores: Scores, task: Task, threshold: float, *, split: SplitName) -> PlantRates | None:
    """Count escapes and overkill at a threshold; None for a sorting task.

    The rates honour the weights; counts and bounds are of pictures.
    """
    if is_sorting(task):
        return None
    defect = is_defect(scores, task)
    rejected = defect_scores(scores, task) >= threshold
    weights = scores.weights.astype(np.float64)
    escaped, defects = int((defect & ~rejected).sum()), int(defect.sum())
    scrapped, goods = int((~defect & rejected).sum()), int((~defect).sum())
    escape_low, escape_high = clopper_pearson(escaped, defects)
    overkill_low, overkill_high = clopper_pearson(scrapped, goods)
    return PlantRates(
        split=split,
        threshold=threshold,
        exact=split == "test" and bool(np.ptp(weights) == 0 if len(weights) else True),
        defects=defects,
        escaped=escaped,
        escape_rate=_share(weights, defect & ~rejected, defect),
        escape_low=escape_low,
        escape_high=escape_high,
        goods=goods,
        scrapped=scrapped,
        overkill_rate=_share(weights, ~defect & rejected, ~defect),
        overkill_low=overkill_low,
        overkill_high=overkill_high,
    )


def _share(weights: NDArray[np.float64], part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float | None:
    total = float(weights[whole].sum())
    return float(weights[part].sum()) / total if total > 0 else None


@dataclass(frozen=True)
class Choice:
    """A policy and how it came about: the cost curve (None where there was none) and remarks in words."""

    policy: Policy
    curve: CostCurve | None
    notes: tuple[str, ...]


def choose_policy(scores: Scores, task: Task, section: PolicySection) -> Policy:
    """Return the policy of least expected cost on the validation split; see `choose`."""
    return choose(scores, task, section).policy


def choose(scores: Scores, task: Task, section: PolicySection) -> Choice:
    """Find the threshold of least expected cost on the validation split, and say what it rests on.

    Costs and prevalence are the recipe's; an absent prevalence is that of the validation split (by weight).
    ``max_escape_rate`` lowers the threshold until both the smoothed and the counted escape rate keep to it;
    the notes say when the split has too few defects to support it.

    Args:
        scores: The validation split's scores, with temperature applied.
        task: What is predicted.
        section: The recipe's ``[policy]``.
    """
    base = Policy(
        labels=task.labels,
        ok_labels=task.ok_labels,
        deadline_ms=section.deadline_ms,
        escape_cost=section.escape_cost,
        overkill_cost=section.overkill_cost,
        prevalence=section.prevalence,
    )
    if is_sorting(task):
        return Choice(base, None, ("No label means a defect, so there is no threshold to choose.",))
    defect = is_defect(scores, task)
    if not defect.any() or defect.all():
        return _without_evidence(base, "defect" if not defect.any() else "good part")
    costs = _costs(scores, defect, section)
    curve = cost_curve(defect_scores(scores, task), defect, scores.weights, costs)
    index = cheapest(curve, _resolution(costs, defect))
    index, notes = _keep_escapes(curve, index, scores, task, section)
    threshold = round(float(curve.thresholds[index]), 6)
    policy = base.model_copy(update={"threshold": threshold, "prevalence": round(costs.prevalence, 6)})
    return Choice(policy, curve, (*_trivial(curve, costs, index), *notes))


def curve_of(scores: Scores, task: Task, policy: Policy) -> CostCurve | None:
    """Return a split's cost curve under a policy's own costs and prevalence; None where there is none."""
    if is_sorting(task):
        return None
    defect = is_defect(scores, task)
    if not defect.any() or defect.all():
        return None
    section = PolicySection(
        escape_cost=policy.escape_cost, overkill_cost=policy.overkill_cost, prevalence=policy.prevalence
    )
    return cost_curve(defect_scores(scores, task), defect, scores.weights, _costs(scores, defect, section))


def _costs(scores: Scores, defect: NDArray[np.bool_], section: PolicySection) -> Costs:
    found = _share(scores.weights.astype(np.float64), defect, np.ones_like(defect))
    prevalence = section.prevalence or float(np.clip(found or 0.5, 1e-6, 1 - 1e-6))
    if section.escape_cost == section.overkill_cost == 0:
        return Costs(1.0, 1.0, prevalence)  # nothing costs anything: count both mistakes alike
    return Costs(section.escape_cost, section.overkill_cost, prevalence)


def _resolution(costs: Costs, defect: NDArray[np.bool_]) -> float:
    """A tenth of what the cheapest single picture weighs: differences below that are no evidence."""
    one_defect = costs.prevalence * costs.escape / int(defect.sum())
    one_good = (1 - costs.prevalence) * costs.overkill / int((~defect).sum())
    return 0.1 * (min(one_defect, one_good) or max(one_defect, one_good))


def _without_evidence(base: Policy, missing: str) -> Choice:
    """Fall back on what calibrated probabilities would want: reject where the expected escape costs more."""
    total = base.escape_cost + base.overkill_cost
    threshold = round(base.overkill_cost / total, 6) if total else 0.5
    note = (
        f"The validation split has no {missing}: the threshold {threshold:.3g} follows from the costs alone "
        f"and nothing confirms it."
    )
    return Choice(base.model_copy(update={"threshold": threshold}), None, (note,))


def _keep_escapes(
    curve: CostCurve, index: int, scores: Scores, task: Task, section: PolicySection
) -> tuple[int, tuple[str, ...]]:
    wanted = section.max_escape_rate
    if wanted is None:
        return index, ()
    defect = is_defect(scores, task)
    odds = np.sort(defect_scores(scores, task)[defect])
    counted = np.searchsorted(odds, curve.thresholds, side="left") / len(odds)
    allowed = np.flatnonzero((curve.escape_rate <= wanted) & (counted <= wanted))
    lowered = min(index, int(allowed[-1])) if len(allowed) else 0
    missed = int(np.searchsorted(odds, curve.thresholds[lowered], side="left"))
    notes = []
    if lowered < index:
        notes.append(
            f"The threshold was lowered from {curve.thresholds[index]:.3g} to {curve.thresholds[lowered]:.3g} "
            f"to keep escapes within {percent(wanted)}; that scraps about "
            f"{percent(float(curve.overkill_rate[lowered]))} of the good parts instead of "
            f"{percent(float(curve.overkill_rate[index]))}."
        )
    if upper_bound(missed, len(odds)) > wanted:
        notes.append(f"Validation cannot support it: {claim(len(odds), missed, wanted)}")
    return lowered, tuple(notes)


def _trivial(curve: CostCurve, costs: Costs, index: int) -> tuple[str, ...]:
    reject_all, accept_all = (1 - costs.prevalence) * costs.overkill, costs.prevalence * costs.escape
    if curve.cost[index] < 0.99 * min(reject_all, accept_all):
        return ()
    act = "scrap (or inspect by hand) every part" if reject_all <= accept_all else "let every part pass"
    return (f"With these costs the cheapest policy is to {act}: the model saves next to nothing.",)


def required_defects(rate: float, confidence: float = 0.95, misses: int = 0) -> int:
    """Return how many test defects a claim of "at most ``rate`` escape" needs when ``misses`` of them escape.

    Without a miss that is ln(1 − confidence) / ln(1 − rate): 2,995 for 0.1 %.

    Raises:
        BugError: A rate or confidence outside (0, 1), or misses below 0.
    """
    if not (0 < rate < 1 and 0 < confidence < 1 and misses >= 0):
        raise BugError("claim", f"rate={rate}, confidence={confidence}, misses={misses}", "Please report it.")
    if misses == 0:
        return math.ceil(math.log1p(-confidence) / math.log1p(-rate))
    low, high = misses, misses + 1
    while upper_bound(misses, high, confidence) > rate:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if upper_bound(misses, middle, confidence) <= rate else (middle, high)
    return high


def claim(defects: int, misses: int, rate: float = 0.001) -> str:
    """Say in words what so many defects, so many of them missed, allow to claim, beside the rate wished for."""
    have = f"You have {defects:,} {'defect' if defects == 1 else 'defects'}"
    needed = required_defects(rate)
    wish = f"a claim of ≤ {percent(rate)} escapes needs about {_about(needed):,}"
    if defects == 0:
        return f"{have}: nothing can be claimed; {wish}, none of them missed."
    bound = upper_bound(misses, defects)
    if bound <= rate:
        return f"{have}, {_missed(misses)}: that supports a claim of ≤ {percent(rate)} escapes (95 % confidence)."
    return f"{have}; {wish}, none of them missed. With {_missed(misses)}, the claim is ≤ {percent(bound, up=True)}."


def percent(share: float, *, up: bool = False) -> str:
    """Write a share as a percentage of two significant digits, rounded up where it is an upper bound."""
    value = 100 * share
    if value <= 0:
        return "0 %"
    if value >= 99.5:
        return "100 %"
    digits = max(0, 1 - math.floor(math.log10(value)))
    scaled = value * 10**digits
    rounded = math.ceil(scaled - 1e-9) if up else round(scaled)
    return f"{rounded / 10**digits:.{digits}f}".rstrip("0").rstrip(".") + " %" if digits else f"{rounded} %"


def _missed(misses: int) -> str:
    return {0: "none missed", 1: "one missed"}.get(misses, f"{misses:,} missed")


def _about(number: int) -> int:
    """Round up to two significant digits, as one speaks: 2,995 → 3,000."""
    unit: int = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return math.ceil(number / unit) * unit

"""From counts and clusters to sentences: what is wrong, how bad it is, what to do. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from edge_sft.data.dataset import Dataset, SplitName
from edge_sft.data.findings import Finding, LabelCount, Lookalikes, Spread, Suspicion
from edge_sft.data.recognise import group_pattern
from edge_sft.recipe import Recipe

_SHOWN = 5
_MANY_BROKEN = 0.2  # of all files: not some bad pictures but a bad copy
_LEAK_ERROR = 0.01  # of the test pictures: more would move a result by as much
_SERIES = 0.2  # of the pictures with a near-copy: no accident but the way they were taken
_FEW = 10  # pictures of a label to train on
_USUAL_CLAIM = 0.001  # what plants ask for where the recipe names no rate


def files(dataset: Dataset) -> Iterator[Finding]:
    """Judge what was left out."""
    broken = dataset.quarantined
    if broken:
        reasons = Counter(left.reason for left in broken).most_common(3)
        rest = len(broken) - sum(count for _, count in reasons)
        many = len(broken) > _MANY_BROKEN * (len(broken) + len(dataset.items))
        yield Finding(
            "error" if many else "warning",
            "unreadable",
            f"{_count(len(broken), 'file')} cannot be used and {_are(len(broken))} left out: "
            + "; ".join(f"{reason} ({count})" for reason, count in reasons)
            + (f"; and {rest} more." if rest else "."),
            "Copy the folder again: so many damaged files are no accident." if many else "Replace or remove them.",
            tuple(left.id for left in broken),
        )
    for note in dataset.notes:
        yield Finding("note", "left-out", note)


def copies(dataset: Dataset, exact: Sequence[Lookalikes], near: Sequence[Lookalikes]) -> Iterator[Finding]:
    """Judge duplicates: contradictions first, then leaks, then mere repetition."""
    for clusters, word in ((exact, "the same picture"), (near, "nearly the same picture")):
        conflicts = [cluster for cluster in clusters if cluster.conflicting]
        if conflicts:
            yield Finding(
                "error" if clusters is exact else "warning",
                "conflicting-labels",
                f"{_count(len(conflicts), 'time')} {word} has different labels, for example {_example(conflicts[0])}.",
                "One label is wrong: keep the right one."
                if clusters is exact
                else "Look at them side by side: a label is wrong, or what little differs (brightness too) matters.",
                _ids(conflicts),
            )
    for clusters, word in ((exact, "have copies"), (near, "look nearly like one")):
        leaks = [cluster for cluster in clusters if cluster.leaking]
        if leaks:
            share = _leaked_share(dataset, leaks)
            yield Finding(
                "error" if clusters is exact and share > _LEAK_ERROR else "warning",
                "leak",
                f"{_count(sum(len(c.ids) for c in leaks), 'picture')} {word} in another split "
                f"({_percent(share)} of the test pictures), for example {leaks[0].ids[0]} and {_elsewhere(leaks[0])}.",
                "Results are flattered: keep copies on one side, or let the recipe's [data.split] cut a pool."
                if clusters is exact
                else "Look at some: if they show one part, give it a group; else results are a little flattered.",
                _ids(leaks),
            )
    kept = [cluster for cluster in exact if not cluster.conflicting]
    if kept:
        extra = sum(len(cluster.ids) - 1 for cluster in kept)
        yield Finding(
            "note",
            "exact-duplicates",
            f"{_count(extra, 'picture')} {_are(extra)} an exact copy of another.",
            "Remove the copies unless they should count more.",
            _ids(kept),
        )
    if near:
        yield _repeated(dataset, near)


def _repeated(dataset: Dataset, near: Sequence[Lookalikes]) -> Finding:
    """Judge near-duplicates as such: so many of them mean that parts were photographed several times."""
    number = sum(len(cluster.ids) for cluster in near)
    text = (
        f"{_count(number, 'picture')} form {_count(len(near), 'cluster')} of nearly equal ones "
        f"(the largest has {max(len(cluster.ids) for cluster in near)})."
    )
    if number > _SERIES * len(dataset.items) and not any(item.given_group for item in dataset.items):
        remedy = (
            "Parts seem to be photographed several times, and not every such pair can be recognised: name the part in "
            "a manifest's group column or by data.split.group, or results are flattered."
        )
        return Finding("warning", "near-duplicates", text, remedy, _ids(near))
    remedy = "A pool is cut so that each cluster stays on one side; they tell a model less than so many parts would."
    return Finding("note", "near-duplicates", text, remedy, _ids(near))


def groups(dataset: Dataset) -> Iterator[Finding]:
    """Judge the owner's groups: torn over splits, or missing where file names suggest them."""
    sides: dict[str, set[str]] = defaultdict(set)
    for item in dataset.items:
        if item.given_group is not None:
            sides[item.given_group].add(item.split)
    torn = sorted(group for group, found in sides.items() if len(found) > 1)
    if torn:
        inside = [item.id for item in dataset.items if item.given_group in torn]
        tested = [item for item in dataset.split("test") if item.given_group in torn]
        share = len(tested) / max(1, len(dataset.split("test")))
        yield Finding(
            "error" if share > 5 * _LEAK_ERROR else "warning",
            "group",
            f"{_count(len(torn), 'group')} ({', '.join(torn[:_SHOWN])}{' …' if len(torn) > _SHOWN else ''}) "
            f"lie in more than one split, {_percent(share)} of the test pictures among them.",
            "Put every group on one side, or take the given splits away and let the recipe's [data.split] cut them.",
            tuple(inside),
        )
    pattern = None if sides else group_pattern([item.id for item in dataset.items])
    if pattern is not None:
        yield Finding(
            "warning",
            "group",
            "File names look as if one part was photographed several times, and no group is set.",
            f"If so, write group = '{pattern}' under [data.split]; results are flattered otherwise.",
        )


def counts(recipe: Recipe, balance: Sequence[LabelCount]) -> Iterator[Finding]:
    """Judge how many pictures there are of each label, and of defects altogether."""
    few = [row for row in balance if row.counts["train"] < _FEW]
    if few:
        named = ", ".join(f"{row.label} ({row.counts['train']})" for row in few[:_SHOWN])
        yield Finding(
            "warning", "balance", f"Fewer than {_FEW} pictures to train on: {named}.", "Collect more of them."
        )
    sides: tuple[tuple[SplitName, str], ...] = (("val", "thresholds are chosen"), ("test", "results are reported"))
    for side, loss in sides:
        if not any(row.counts[side] for row in balance):
            yield Finding("warning", "balance", f"There is no {side} split.", f"Without it no {loss}: add one.")
            continue
        absent = [row.label for row in balance if not row.counts[side]]
        if absent:
            text = f"No picture of {', '.join(absent[:_SHOWN])} is in {side}."
            yield Finding("warning", "balance", text, f"Without them {loss} for the others only.")
    least, most = min(balance, key=lambda row: row.total), max(balance, key=lambda row: row.total)
    if most.total > 20 * least.total:
        yield Finding(
            "note",
            "balance",
            f"{most.label} has {most.total:,} pictures, {least.label} {least.total}.",
            "Training evens this out (train.class_balance); more of the rare ones helps most.",
        )
    yield from _defects(recipe, balance)


def defects_needed(rate: float, confidence: float = 0.95) -> int:
    """Return how many defects, none missed, a claim of at most ``rate`` escapes needs."""
    return math.ceil(math.log1p(-confidence) / math.log1p(-rate))


def _defects(recipe: Recipe, balance: Sequence[LabelCount]) -> Iterator[Finding]:
    bad = [row for row in balance if not row.good]
    if not bad or len(bad) == len(balance):
        return
    asked = recipe.policy.max_escape_rate
    rate = asked or _USUAL_CLAIM
    total, tested = sum(row.total for row in bad), sum(row.counts["test"] for row in bad)
    needed = defects_needed(rate)
    if tested >= needed:
        return
    provable = 1 - 0.05 ** (1 / tested) if tested else 1.0
    claim = f"at best ≤ {_percent(provable)} can be shown" if tested else "nothing can be shown"
    yield Finding(
        "note" if asked is None else "warning",
        "too-few-defects",
        f"You have {total:,} defects, {tested:,} of them in the test split; a claim of ≤ {_percent(rate)} escapes "
        f"needs about {_about(needed):,} there. With these {claim} (95 % confidence).",
        "Collect more defects, or ask for less; the share in data.split.test counts too.",
    )


def looks(recipe: Recipe, dataset: Dataset, spread: Sequence[Spread]) -> Iterator[Finding]:
    """Judge format and appearance."""
    facts = list(zip(dataset.items, dataset.facts, strict=True))
    kinds = Counter((fact.channels, fact.bits) for _, fact in facts)
    if len(kinds) > 1:
        words = ", ".join(f"{n} {'grey' if c == 1 else 'RGB'} {b}-bit" for (c, b), n in kinds.most_common())
        rare = kinds.most_common()[-1][0]
        ids = tuple(item.id for item, fact in facts if (fact.channels, fact.bits) == rare)
        yield Finding("warning", "format", f"Pictures of several kinds: {words}.", "Is it one camera?", ids)
    top = max((fact.high for _, fact in facts if fact.bits == 16), default=0)
    if 0 < top <= 16383 and recipe.image.depth_range is None:
        yield Finding(
            "warning",
            "format",
            f"16-bit pictures use values up to {top} of 65535 only: a model sees them nearly black.",
            f"Write depth_range = [0, {next(v for v in (255, 1023, 4095, 16383) if top <= v)}] under [image].",
        )
    tiny = tuple(item.id for item, fact in facts if min(fact.height, fact.width) < 16)
    if tiny:
        yield Finding(
            "warning", "size", f"{_count(len(tiny), 'picture')} smaller than 16 pixels.", "Are they thumbnails?", tiny
        )
    flat = tuple(item.id for item, fact in facts if fact.contrast < 1.0)
    if flat:
        text = f"{_count(len(flat), 'picture')} {'shows' if len(flat) == 1 else 'show'} one even colour."
        yield Finding("warning", "contrast", text, "Was the lens covered or the light off?", flat)
    for statistic in spread:
        ids = tuple(name for name, _ in statistic.outliers if name not in flat)
        if ids:
            kind = "size" if statistic.name in {"width", "height"} else statistic.name
            text = f"{_count(len(ids), 'picture')} far from the others in {statistic.name}, first {ids[0]}."
            yield Finding("note", kind, text, "Look whether they belong here.", ids)


def doubts(doubted: Sequence[Suspicion]) -> Iterator[Finding]:
    """Judge what a model contradicts."""
    if doubted:
        first = doubted[0]
        yield Finding(
            "warning",
            "suspicious",
            f"{_count(len(doubted), 'label')} contradicted by the model, first {first.id}: labelled {first.label}, "
            f"{first.probability_of_predicted:.0%} {first.predicted}.",
            "Look at them: the label may be wrong, or the model.",
            tuple(doubt.id for doubt in doubted),
        )


def _leaked_share(dataset: Dataset, leaks: Sequence[Lookalikes]) -> float:
    tested = sum(side == "test" for cluster in leaks for side in cluster.splits)
    return tested / max(1, len(dataset.split("test")))


def _elsewhere(cluster: Lookalikes) -> str:
    there = next(i for i, side in enumerate(cluster.splits) if side != cluster.splits[0])
    return f"{cluster.ids[there]} ({cluster.splits[0]} and {cluster.splits[there]})"


def _example(cluster: Lookalikes) -> str:
    there = next(i for i, label in enumerate(cluster.labels) if label != cluster.labels[0])
    return f"{cluster.ids[0]} ({cluster.labels[0]}) and {cluster.ids[there]} ({cluster.labels[there]})"


def _ids(clusters: Sequence[Lookalikes]) -> tuple[str, ...]:
    return tuple(name for cluster in clusters for name in cluster.ids)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _about(number: int) -> int:
    """Round to two digits: nobody collects 2,995 defects."""
    step = int(10 ** max(0, len(str(number)) - 2))
    return math.ceil(number / step) * step


def _percent(rate: float) -> str:
    return f"{100 * rate:.2g} %" if rate < 1 else "100 %"

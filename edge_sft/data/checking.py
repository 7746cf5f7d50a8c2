"""What is the matter with the pictures, in words: everything worth knowing before a training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from edge_sft.checkpoint import Scores
from edge_sft.data import judging
from edge_sft.data.dataset import Dataset, Quarantined
from edge_sft.data.doubting import suspicious
from edge_sft.data.duplicates import exact_clusters, near_clusters
from edge_sft.data.findings import Finding, Findings, LabelCount, Lookalikes, Severity, Spread, Suspicion
from edge_sft.data.looking import Seen, look_all
from edge_sft.data.reader import lookalikes
from edge_sft.data.statistics import formats, spreads
from edge_sft.progress import Progress, Silent
from edge_sft.recipe import Recipe

_ORDER: tuple[Severity, ...] = ("error", "warning", "note")


def check(
    recipe: Recipe,
    dataset: Dataset,
    progress: Progress = Silent(),  # noqa: B008
    *,
    scores: Mapping[str, Scores] | None = None,
) -> Findings:
    """Judge a data set against what its recipe asks for.

    Args:
        recipe: What is to be trained.
        dataset: As `open_dataset` made it; pictures are read again only where it carries no facts.
        progress: Told about the comparing.
        scores: What a checkpoint's model said (`edge_sft.checkpoint.read_scores`), to find suspicious labels.

    Raises:
        DataError: Pictures vanished since the data set was opened, or the scores are of another task.
    """
    dataset = _with_facts(dataset, progress)
    progress.start("Comparing pictures", 1)
    exact = exact_clusters(dataset)
    alike = dataset.alike
    if alike is None:
        alike = tuple(lookalikes([item.sha256 for item in dataset.items], dataset.facts))
    near = near_clusters(dataset, alike)
    progress.advance(1, note=f"{len(exact)} exact, {len(near)} near")
    balance = tuple(_count(recipe, dataset, label) for label in dataset.labels)
    spread = spreads(dataset)
    doubted = suspicious(dataset, scores or {})
    found = [
        *judging.files(dataset),
        *judging.copies(dataset, exact, near),
        *judging.groups(dataset),
        *judging.counts(recipe, balance),
        *judging.looks(recipe, dataset, spread),
        *judging.doubts(doubted),
    ]
    found.sort(key=lambda finding: _ORDER.index(finding.severity))
    return Findings(
        name=recipe.name,
        root=dataset.root,
        count=len(dataset.items),
        findings=tuple(found),
        balance=balance,
        formats=formats(dataset.facts),
        spreads=spread,
        lookalikes=(*exact, *near),
        suspicious=doubted,
        quarantined=dataset.quarantined,
        fingerprint=dataset.fingerprint,
        test_fingerprint=dataset.test_fingerprint,
        paths=_paths(dataset, _named(found, (*exact, *near), spread, doubted)),
    )


def _count(recipe: Recipe, dataset: Dataset, label: str) -> LabelCount:
    counts = Counter(item.split for item in dataset.items if item.label == label)
    return LabelCount(label, label in recipe.task.ok, {side: counts[side] for side in ("train", "val", "test")})


def _with_facts(dataset: Dataset, progress: Progress) -> Dataset:
    """Read the pictures of a data set that was made without reading them."""
    if len(dataset.facts) == len(dataset.items):
        return dataset
    items, facts, broken = [], [], []
    progress.start("Reading pictures", len(dataset.items))
    for item, result in zip(dataset.items, look_all(item.path for item in dataset.items), strict=True):
        if isinstance(result, Seen):
            items.append(item)
            facts.append(result.facts)
        else:
            broken.append(Quarantined(item.id, result))
        progress.advance(1)
    left = (*dataset.quarantined, *broken)
    return replace(dataset, items=tuple(items), facts=tuple(facts), quarantined=left, alike=None)


def _named(
    found: Iterable[Finding], clusters: Iterable[Lookalikes], spread: Iterable[Spread], doubted: Iterable[Suspicion]
) -> Iterator[str]:
    for finding in found:
        yield from finding.ids
    for cluster in clusters:
        yield from cluster.ids
    for statistic in spread:
        yield from (name for name, _ in statistic.outliers)
    for doubt in doubted:
        yield doubt.id


def _paths(dataset: Dataset, names: Iterable[str]) -> dict[str, Path]:
    wanted = set(names)
    return {item.id: item.path for item in dataset.items if item.id in wanted}

"""Pictures that are the same or nearly so, as clusters with their labels and splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from edge_sft.data.dataset import Dataset
from edge_sft.data.findings import Lookalikes


def exact_clusters(dataset: Dataset) -> list[Lookalikes]:
    """Return the pictures whose files are equal byte for byte."""
    together: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(dataset.items):
        together[item.sha256].append(index)
    return _clusters(dataset, together.values(), exact=True)


def near_clusters(dataset: Dataset, alike: Iterable[tuple[int, int]]) -> list[Lookalikes]:
    """Return the pictures that are nearly equal, chained; clusters that are all one content are left out."""
    parent = list(range(len(dataset.items)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for first, second in alike:
        low, high = sorted((find(first), find(second)))
        parent[high] = low
    together: dict[int, list[int]] = defaultdict(list)
    for index in range(len(parent)):
        together[find(index)].append(index)
    mixed = (cluster for cluster in together.values() if len({dataset.items[i].sha256 for i in cluster}) > 1)
    return _clusters(dataset, mixed, exact=False)


def _clusters(dataset: Dataset, clusters: Iterable[list[int]], *, exact: bool) -> list[Lookalikes]:
    found = [
        Lookalikes(
            exact=exact,
            ids=tuple(dataset.items[i].id for i in cluster),
            labels=tuple(dataset.items[i].label for i in cluster),
            splits=tuple(dataset.items[i].split for i in cluster),
        )
        for cluster in clusters
        if len(cluster) > 1
    ]
    found.sort(key=lambda cluster: (not cluster.conflicting, not cluster.leaking, -len(cluster.ids), cluster.ids))
    return found

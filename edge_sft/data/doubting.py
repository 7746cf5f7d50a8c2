"""Labels that a trained model doubts: it is confident of another one."""

from __future__ import annotations

from collections.abc import Mapping

from edge_sft.checkpoint import Scores
from edge_sft.data.dataset import Dataset
from edge_sft.data.findings import Suspicion
from edge_sft.errors import DataError

_SURE, _UNLIKELY = 0.8, 0.1  # of the other label, of its own: the model does not waver, it contradicts


def suspicious(dataset: Dataset, scores: Mapping[str, Scores]) -> tuple[Suspicion, ...]:
    """Rank the labels that a checkpoint's model contradicts, the most confident contradiction first.

    Raises:
        DataError: The scores are of a model with another number of labels.
    """
    known = {item.id: item for item in dataset.items}
    found = []
    for split, score in scores.items():
        if len(score.ids) and score.probabilities.shape[1] != len(dataset.labels):
            raise DataError(
                "the checkpoint",
                f"tells {score.probabilities.shape[1]} labels apart, the recipe {len(dataset.labels)}",
                "Name a checkpoint that was trained with this recipe.",
            )
        for name, probabilities in zip(score.ids, score.probabilities, strict=True):
            item = known.get(name)
            if item is None:
                continue
            best = int(probabilities.argmax())
            own, other = float(probabilities[dataset.labels.index(item.label)]), float(probabilities[best])
            if other >= _SURE and own <= _UNLIKELY:
                found.append(Suspicion(name, split, item.label, dataset.labels[best], own, other))
    return tuple(sorted(found, key=lambda s: (s.probability_of_label - s.probability_of_predicted, s.id)))

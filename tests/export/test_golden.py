from __future__ import annotations

import numpy as np

from edge_sft.checkpoint import CheckpointMeta
from edge_sft.export import choosing, gating, golden
from edge_sft.export.pictures import Pictures
from edge_sft.export.variants import ExportResult


def test_every_class_and_the_whole_range_of_confidence_is_there() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 3], [500, 30, 4, 1])
    confidence = random.uniform(0.25, 1.0, len(labels))
    probabilities = np.stack([confidence, *[(1 - confidence) / 3] * 3], axis=1).astype(np.float32)
    chosen = choosing.choose(labels, probabilities)
    assert len(chosen) == len(set(chosen)) <= 16
    assert set(labels[chosen]) == {0, 1, 2, 3}
    mine = [place for place in chosen if labels[place] == 0]
    most = probabilities.max(axis=1)
    assert min(most[mine]) == min(most[labels == 0])
    assert max(most[mine]) == max(most[labels == 0])
    assert chosen == choosing.choose(labels, probabilities)


def test_more_classes_than_samples_and_very_few_pictures() -> None:
    labels = np.arange(40)
    probabilities = np.eye(40, dtype=np.float32)
    assert len(choosing.choose(labels, probabilities)) == 16
    assert choosing.choose(labels[:1], probabilities[:1]) == [0]


def test_the_file_holds_what_each_variant_says(exported: ExportResult, meta: CheckpointMeta) -> None:
    with np.load(exported.golden, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    images, labels = arrays["in/image"], arrays["label"]
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert images.shape[0] == labels.shape[0] == 15
    shown = Pictures(images, labels, tuple(map(str, labels)))
    gates = {gate.variant: gate for gate in exported.gates}
    for variant, file in exported.files.items():
        said = gating.infer(file, meta.task, shown, batch=1)
        assert np.abs(said - arrays[f"out/{variant}/probabilities"]).max() < golden.tolerance(gates[variant])

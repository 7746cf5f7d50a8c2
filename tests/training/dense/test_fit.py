"""From marked pictures to a checkpoint: whole, resumable to the same bytes, refused in words where it cannot be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_sft import checkpoint as files
from edge_sft.errors import DataError
from edge_sft.models import dense as networks
from edge_sft.policy import check_fits
from edge_sft.training.dense import samples as tiles
from edge_sft.training.dense.fit import fit
from edge_sft.training.dense.loop import DenseTraining, step_count
from edge_sft.training.dense.scoring import score
from edge_sft.training.state import FOLDER

NAMES = {
    "detection": {"map50", "map50_95", "recall", "precision", "ap50.disc", "escape_rate", "overkill_rate"},
    "segmentation": {"iou", "iou.disc", "aupro", "defect_recall", "escape_rate", "overkill_rate"},
}


@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_a_checkpoint_is_whole_and_answers_as_its_task_says(kind, recipe, marked, tmp_path):
    given, data, out = recipe(kind), marked(kind), tmp_path / "out"
    meta = fit(given, data, out, recipe_text="name = 'toy'\n")
    assert meta == files.read_meta(out)
    check_fits(meta.policy, meta.task, source="test")
    assert meta.training["steps"] == 4
    assert NAMES[kind] <= set(meta.metrics["val"]) | {"map50_95", "iou.disc"}
    assert not (out / FOLDER).exists()
    network = networks.load(out)
    with torch.no_grad():
        told = network(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    assert all(spec.accepts(tuple(one.shape)) for spec, one in zip(meta.task.outputs, told, strict=True))
    scores = files.read_sensor_scores(out)
    assert {"val/ids", "val/good", "val/evidence", "val/picture", "test/evidence"} <= set(scores)
    assert scores["val/good"].sum() == 2
    assert score(out, given, data, "test") == meta.metrics["test"]
    assert fit(given, data, out, recipe_text="").training == meta.training  # there already


class Killed(Exception):
    pass


def test_an_interrupted_training_ends_with_the_same_bytes(recipe, marked, tmp_path, monkeypatch):
    given, data = recipe("detection", train={"steps": 5, "batch_size": 4, "device": "cpu"}), marked("detection")
    whole = fit(given, data, tmp_path / "whole", recipe_text="", save_every_s=0)
    plain = DenseTraining._step

    def dies(self, step, chosen):
        if step == 3:
            raise Killed
        plain(self, step, chosen)

    monkeypatch.setattr(DenseTraining, "_step", dies)
    with pytest.raises(Killed):
        fit(given, data, tmp_path / "killed", recipe_text="", save_every_s=0)
    monkeypatch.setattr(DenseTraining, "_step", plain)
    resumed = fit(given, data, tmp_path / "killed", recipe_text="", save_every_s=0)
    assert resumed.training["resumed"] == 1
    assert resumed.weights_sha256 == whole.weights_sha256
    assert resumed.policy == whole.policy
    assert resumed.metrics == whole.metrics


def test_a_label_that_is_never_marked_is_refused(recipe, marked, tmp_path):
    given = recipe("detection", task={"kind": "detection", "labels": ["disc", "bar", "dent"]})
    with pytest.raises(DataError, match="'dent'"):
        fit(given, marked("detection"), tmp_path / "out", recipe_text="")


def test_a_rate_that_few_good_pictures_cannot_promise_is_refused(recipe, marked, tmp_path):
    given = recipe("segmentation", policy={"false_reject_rate": 0.01})
    with pytest.raises(DataError, match="2 good validation pictures"):
        fit(given, marked("segmentation"), tmp_path / "out", recipe_text="")


def test_large_pictures_become_tiles_and_empty_ones_are_thinned(recipe, marked):
    image = {"size": 64, "tiles": {"overlap": 16}}
    data = tiles.read(marked("detection", side=400), recipe("detection", image=image), memory=1 << 32, progress=Quiet())
    assert len(data["val"]) > 6 * 40
    assert len(data["train"]) <= 12 * 12
    assert set(data["train"].picture.tolist()) == set(range(12))
    for drawn in data["train"].drawn:
        assert (drawn.boxes >= 0).all()
        assert (drawn.boxes <= 64).all()
    kinds = tiles.kinds(data["train"], 2)
    assert {0, 1, 2} == set(kinds.tolist())


def test_tiles_that_do_not_fit_into_memory_are_refused(recipe, marked):
    with pytest.raises(DataError, match="quarter of this machine's memory"):
        tiles.read(marked("detection"), recipe("detection"), memory=1 << 16, progress=Quiet())


def test_new_norms_have_statistics_and_the_backbones_stay(recipe):
    from edge_sft.training.dense.network import DenseNetwork

    torch.manual_seed(0)
    dense, _ = networks.build(recipe("segmentation"))
    before = {name: value.clone() for name, value in dense.stages.state_dict().items()}
    network = DenseNetwork(dense, recipe("segmentation").train, torch.device("cpu"))
    pictures = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3)).astype(np.uint8)
    network.measure(pictures)
    assert all(torch.equal(value, before[name]) for name, value in dense.stages.state_dict().items())
    lateral = dense.pyramid.laterals[0]
    with torch.no_grad():
        tapped = dense.tapped(dense.normalise(torch.from_numpy(pictures)))[0]
        maps, inside = lateral(tapped), lateral.conv(tapped)
    assert maps.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert lateral.norm.running_var.numpy() == pytest.approx(
        inside.var(dim=(0, 2, 3), unbiased=False).numpy(), rel=1e-3
    )


def test_steps_follow_the_recipe_or_what_a_processor_can_do(recipe):
    assert step_count(recipe("detection"), 100, gpu=False) == 4
    auto = recipe("detection", image={"size": 224}, train={"steps": "auto", "batch_size": 16})
    assert step_count(auto, 20, gpu=False) == 200
    assert 1000 < step_count(auto, 100_000, gpu=False) < 1300
    assert step_count(auto, 100_000, gpu=True) > 10_000


class Quiet:
    def start(self, title, total):
        pass

    def advance(self, units=1, note=""):
        pass

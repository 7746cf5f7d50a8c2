from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edge_sft import checkpoint as files
from edge_sft.errors import DataError, UserError
from edge_sft.federated.learner import Learner
from edge_sft.federated.learners import make_learner
from edge_sft.progress import Silent

TEXT = """
name = "toy"
[task]
labels = ["scratch", "clean"]
ok = ["clean"]
[data]
path = "elsewhere"
[image]
size = 32
[train]
steps = 6
batch_size = 8
[federated]
rounds = 2
"""
SILENT = Silent()


@pytest.fixture(autouse=True)
def _one_thread():  # type: ignore[no-untyped-def]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plant")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        for label in ("scratch", "clean"):
            for index in range(count):
                picture = rng.normal(110, 12, (40, 40)).clip(0, 255).astype(np.uint8)
                if label == "scratch":
                    start, end = rng.integers(4, 36, 2), rng.integers(4, 36, 2)
                    cv2.line(picture, start.tolist(), end.tolist(), 190, 1)
                path = folder / split / label / f"{index:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), picture)
    return folder


def learner(plant: Path, work: Path, text: str = TEXT) -> Learner:
    return make_learner(text, plant, work, SILENT)


def test_two_rounds_give_the_same_bits_again_and_frozen_stages_stay_at_home(plant: Path, tmp_path: Path):
    found = []
    for attempt in range(2):
        site = learner(plant, tmp_path / str(attempt))
        first = site.train(round_number=1, rounds=2, steps=None, proximal=0.0, progress=SILENT)
        assert (first.samples, first.steps) == (16, 3)
        site.train(round_number=2, rounds=2, steps=2, proximal=0.1, progress=SILENT)
        found.append(site.weights())
    assert all((value == found[1][name]).all() for name, value in found[0].items())
    assert not any(name.startswith(("stages.0.", "stages.1.", "stages.2.")) for name in found[0])
    assert {"head.weight", "head.bias"} <= found[0].keys()


def test_a_round_goes_on_from_the_weights_it_is_given(plant: Path, tmp_path: Path):
    site = learner(plant, tmp_path)
    start = site.weights()
    site.train(round_number=1, rounds=2, steps=1, proximal=0.0, progress=SILENT)
    after = site.weights()
    site.load(start)
    site.load({"head.bias": after["head.bias"]})
    mixed = site.weights()
    assert (mixed["head.bias"] == after["head.bias"]).all()
    assert (mixed["head.weight"] == start["head.weight"]).all()
    with pytest.raises(DataError, match="no such net"):
        site.load({"stages.0.conv.weight": start["head.bias"]})


def test_it_says_what_it_is(plant: Path, tmp_path: Path):
    site = learner(plant, tmp_path)
    facts = site.compatible.facts
    assert facts["labels"] == "scratch, clean"
    assert len(facts["starting weights"]) == 64
    assert site.samples == {"train": 16, "val": 8, "test": 8}
    assert site.parts.keys() == site.weights().keys()
    assert set(site.parts.values()) == {"body", "norm", "head"}
    judged = site.judge("val")
    assert judged.samples == 8
    assert judged.score == judged.numbers["balanced_accuracy"]


def test_a_site_ends_with_a_checkpoint_of_its_own(plant: Path, tmp_path: Path):
    site = learner(plant, tmp_path / "work")
    site.train(round_number=1, rounds=1, steps=None, proximal=0.0, progress=SILENT)
    shared = site.weights()
    out = tmp_path / "personal"
    meta = site.checkpoint(out, personal=True, progress=SILENT)
    merits = meta.training["candidates"]
    assert merits[meta.training["chosen"]] == max(merits.values())
    assert {"alone", "global", "alone and global"} <= merits.keys()
    assert all((value == shared[name]).all() for name, value in site.weights().items())
    assert site.checkpoint(out, personal=True, progress=SILENT) == meta
    assert len(files.read_scores(out)["test"].ids) == 8
    plain = site.checkpoint(tmp_path / "global", personal=False, progress=SILENT)
    assert plain.training["chosen"] == "global"
    assert plain.metrics["val"]["balanced_accuracy"] == pytest.approx(site.judge("val").score)


def test_the_coordinators_own_files_are_refused(plant: Path, tmp_path: Path):
    with pytest.raises(UserError, match="coordinator's machine"):
        learner(plant, tmp_path, TEXT + '[model]\nweights = "mine.safetensors"\n')
    with pytest.raises(UserError, match="not valid TOML"):
        learner(plant, tmp_path, "x = ")


LINES = {"grey": (0, 0), "across": (0, 30), "down": (30, 0)}
THREE = TEXT.replace('labels = ["scratch", "clean"]', 'labels = ["grey", "across", "down"]').replace("clean", "grey")


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One plant with all three labels and one that never saw a line down."""
    rng, found = np.random.default_rng(1), {}
    for name, labels in (("whole", LINES), ("lacking", ("grey", "across"))):
        found[name] = tmp_path_factory.mktemp(name)
        for split, count in (("train", 8), ("val", 4), ("test", 4)):
            for label in labels:
                for index in range(count):
                    picture = rng.normal(110, 12, (40, 40)).clip(0, 255).astype(np.uint8)
                    if label != "grey":
                        at = rng.integers(8, 32)
                        ends = ((4, at), (36, at)) if label == "across" else ((at, 4), (at, 36))
                        cv2.line(picture, *[tuple(map(int, end)) for end in ends], 250, 5)
                    path = found[name] / split / label / f"{index:03d}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(path), picture)
    return found


@pytest.mark.slow
def test_a_plant_that_never_saw_a_label_learns_it_from_the_others_and_keeps_it(plants: dict[str, Path], tmp_path: Path):
    sites = {name: learner(data, tmp_path / name, THREE) for name, data in plants.items()}
    assert sites["whole"].compatible.differences(sites["lacking"].compatible) == []
    shared = sites["whole"].weights()
    for number in (1, 2):
        updates = []
        for site in sites.values():
            site.load(shared)
            site.train(round_number=number, rounds=2, steps=6, proximal=0.0, progress=SILENT)
            updates.append(site.weights())
        shared = {name: (updates[0][name] + updates[1][name]) / 2 for name in shared}
    site = sites["lacking"]
    site.load(shared)
    meta = site.checkpoint(tmp_path / "personal", personal=True, progress=SILENT)
    assert meta.training["lacks"] == {split: ["down"] for split in ("train", "val", "test")}
    assert not any("alone" in name for name in meta.training["candidates"])
    site.alone(tmp_path / "alone", SILENT)
    worth = {name: sites["whole"].judge_checkpoint(tmp_path / name, "test").score for name in ("personal", "alone")}
    assert worth["alone"] == pytest.approx(2 / 3)  # never says "down"
    assert worth["personal"] > 0.9
    assert site.judge("test").score == 1.0  # over the labels that it has


@pytest.mark.slow
def test_a_bundle_of_a_plant_that_lacks_a_label_names_it_as_unproved(plants: dict[str, Path], tmp_path: Path):
    from edge_sft import strict_toml
    from edge_sft.export.variants import export_variants
    from edge_sft.federated.at_site import open_pictures, pictures_at
    from edge_sft.recipe import Recipe
    from edge_sft.report import model_page

    site = learner(plants["lacking"], tmp_path / "work", THREE)
    site.train(round_number=1, rounds=1, steps=2, proximal=0.0, progress=SILENT)
    meta = site.checkpoint(tmp_path / "own", personal=False, progress=SILENT)
    here = pictures_at(strict_toml.loads(THREE, Recipe, source="test"), plants["lacking"])
    made = export_variants(tmp_path / "own", open_pictures(here, SILENT), tmp_path / "onnx", variants=("fp32",))
    (gate,) = made.gates
    assert gate.passed
    assert "not proved for 'down', which no validation sample shows" in gate.note
    page = model_page.render(meta, files.read_scores(tmp_path / "own"), made.gates, lambda _: None)
    assert "had nothing to train on of down" in page
    assert "Nothing is known about down" in page
    assert "not proved for" in page


@pytest.mark.slow
def test_its_checkpoint_is_exported(plant: Path, tmp_path: Path):
    from edge_sft import strict_toml
    from edge_sft.data.reader import open_dataset
    from edge_sft.export.variants import export_variants
    from edge_sft.recipe import Recipe

    site = learner(plant, tmp_path / "work")
    site.train(round_number=1, rounds=1, steps=None, proximal=0.0, progress=SILENT)
    site.checkpoint(tmp_path / "personal", personal=True, progress=SILENT)
    recipe = strict_toml.loads(TEXT, Recipe, source="test")
    here = recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": str(plant)})})
    made = export_variants(tmp_path / "personal", open_dataset(here), tmp_path / "onnx", variants=("fp32",))
    assert made.files["fp32"].is_file()

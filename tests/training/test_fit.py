from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_sft import checkpoint as files
from edge_sft import recipe as recipes
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.reader import open_dataset
from edge_sft.errors import DataError, UserError
from edge_sft.models.inference import InferenceModule
from edge_sft.preprocess import image_tensor, read_image
from edge_sft.training.fit import fit


def _fit(recipe: Path, out: Path) -> CheckpointMeta:
    loaded = recipes.load(recipe)
    return fit(loaded, open_dataset(loaded), out, recipe_text=recipe.read_text())


def test_checkpoint_is_whole_and_speaks_as_it_was_scored(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    meta = _fit(toy, out)
    assert meta == files.read_meta(out)
    assert {path.name for path in out.iterdir()} == {files.META, files.WEIGHTS, files.SCORES, files.RECIPE}
    assert (out / files.RECIPE).read_text() == toy.read_text()
    assert meta.metrics["test"]["balanced_accuracy"] > 0.5
    assert meta.training["weights_sha256"] is not None
    assert meta.training["threads"] == 1

    scores = files.read_scores(out)["test"]
    model = InferenceModule(out)
    dataset = open_dataset(recipes.load(toy))
    tiles = [image_tensor(read_image(item.path), meta.preprocess) for item in dataset.split("test")]
    with torch.no_grad():
        again = model(torch.from_numpy(np.stack(tiles))).numpy()
    assert scores.ids == [item.id for item in dataset.split("test")]
    np.testing.assert_allclose(again, scores.probabilities, atol=1e-4)


def test_same_seed_same_bytes_other_seed_other_bytes(toy: Path, tmp_path: Path) -> None:
    first, second = _fit(toy, tmp_path / "a"), _fit(toy, tmp_path / "b")
    assert first.weights_sha256 == second.weights_sha256
    toy.write_text(toy.read_text() + "seed = 1\n")
    other = _fit(toy, tmp_path / "c")
    assert other.training["history"][1:] != first.training["history"][1:]


def test_a_finished_training_is_not_done_again(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    meta = _fit(toy, out)
    stamp = (out / files.WEIGHTS).stat().st_mtime_ns
    assert _fit(toy, out) == meta
    assert (out / files.WEIGHTS).stat().st_mtime_ns == stamp


def test_zero_steps_is_the_head_alone(toy: Path, tmp_path: Path) -> None:
    toy.write_text(toy.read_text().replace("steps = 12", "steps = 0"))
    meta = _fit(toy, tmp_path / "out")
    assert meta.training["chosen"] == "head"
    assert meta.training["steps"] == 0


def test_other_backbone_trains_too(toy: Path, tmp_path: Path) -> None:
    text = toy.read_text().replace("steps = 12", "steps = 2")
    toy.write_text(text + '[model]\nbackbone = "mobilenet_v3_small"\nweights = "random"\n')
    assert _fit(toy, tmp_path / "out").training["weights"] == "random"


def test_no_training_pictures_of_a_label(toy: Path, tmp_path: Path) -> None:
    loaded = recipes.load(toy)
    dataset = open_dataset(loaded)
    shutil.rmtree(tmp_path / "pictures" / "train" / "scratch")
    from dataclasses import replace

    without = replace(dataset, items=tuple(i for i in dataset.items if (i.split, i.label) != ("train", "scratch")))
    with pytest.raises(DataError, match="only 'clean' pictures"):
        fit(loaded, without, tmp_path / "out", recipe_text="")
    with pytest.raises(DataError, match="no pictures to train on"):
        fit(loaded, replace(dataset, items=()), tmp_path / "out", recipe_text="")


def test_picture_gone_between_check_and_training(toy: Path, tmp_path: Path) -> None:
    loaded = recipes.load(toy)
    dataset = open_dataset(loaded)
    dataset.split("train")[3].path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        fit(loaded, dataset, tmp_path / "out", recipe_text="")


def test_a_loss_that_is_no_number_stops_in_words(toy: Path, tmp_path: Path) -> None:
    loaded = recipes.load(toy)
    loaded = loaded.model_copy(update={"train": loaded.train.model_copy(update={"learning_rate": 1e30})})
    with pytest.raises(DataError, match="not a number"):
        fit(loaded, open_dataset(loaded), tmp_path / "out", recipe_text="")


def test_gpu_that_is_not_there(toy: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the GPU that the test wants missing")
    from edge_sft.errors import DeviceError

    toy.write_text(toy.read_text() + 'device = "cuda"\n')
    with pytest.raises(DeviceError, match="no usable GPU"):
        _fit(toy, tmp_path / "out")


def test_missing_weights_end_before_any_work(toy: Path, tmp_path: Path) -> None:
    toy.write_text(toy.read_text() + '[model]\nbackbone = "resnet50"\nweights = "gone.pth"\n')
    with pytest.raises(UserError, match=r"gone\.pth"):
        _fit(toy, tmp_path / "out")


FULL_DISK = """
import sys, torch
from pathlib import Path
from edge_sft import recipe as recipes
from edge_sft.data.reader import open_dataset
from edge_sft.errors import DeviceError
from edge_sft.training.fit import fit
torch.set_num_threads(1)
recipe = recipes.load(Path(sys.argv[1]))
try:
    fit(recipe, open_dataset(recipe), Path(sys.argv[2]), recipe_text="")
except DeviceError as error:
    print(error)
"""


def test_a_full_disk_is_one_clear_line(toy: Path, tmp_path: Path) -> None:
    toy.write_text(toy.read_text().replace("steps = 12", "steps = 0"))
    out = tmp_path / "small"
    out.mkdir()
    mount = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=4m none "$0" && exec "$@"', str(out)]
    if shutil.which("unshare") is None or subprocess.run([*mount, "true"], check=False, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here, so a full disk was not tried")
    done = subprocess.run(
        [*mount, sys.executable, "-c", FULL_DISK, str(toy), str(out)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "the disk is full" in done.stdout, done.stderr
    assert len(done.stdout.splitlines()) == 1

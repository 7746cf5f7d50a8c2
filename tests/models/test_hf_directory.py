"""What a Hugging Face directory is refused for; neither transformers nor a network is needed to say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_sft.errors import DataError, UserError
from edge_sft.models import hf_directory, registry
from edge_sft.recipe import ModelSection, load

CONFIG = {"model_type": "dinov2", "image_size": 518, "hidden_size": 32, "id2label": {"0": "a"}}
PROCESSOR = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "config.json", CONFIG)
    write(tmp_path, "preprocessor_config.json", PROCESSOR)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


def test_it_is_read_as_data(folder: Path) -> None:
    read = hf_directory.read(folder, (98, 112))
    assert read.description.family == "dinov2"
    assert (read.description.height, read.description.width) == (98, 112)
    assert read.description.mean == pytest.approx((127.5, 102.0, 76.5))
    assert read.description.std == pytest.approx((51.0, 63.75, 127.5))
    assert "id2label" not in read.description.config


def test_without_a_size_it_is_the_configuration_s_own(folder: Path) -> None:
    assert hf_directory.read(folder, None).description.height == 518


def test_a_processor_that_only_rescales(folder: Path) -> None:
    write(folder, "preprocessor_config.json", {"do_normalize": False, "rescale_factor": 1 / 127.5})
    description = hf_directory.read(folder, None).description
    assert (description.mean, description.std) == ((0.0,) * 3, pytest.approx((127.5,) * 3))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_the_digest_knows_every_file(folder: Path, name: str) -> None:
    before = hf_directory.digest(folder)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert hf_directory.digest(folder) != before
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"has no {name}"):
        hf_directory.digest(folder)


def test_a_pickle_is_not_opened(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: is a pickle.*safe_serialization=True"):
        hf_directory.read(folder, None)


def test_code_of_its_own_is_not_run(folder: Path) -> None:
    write(folder, "config.json", {**CONFIG, "auto_map": {"AutoModel": "modeling.Mine"}})
    with pytest.raises(UserError, match="wants code of its own"):
        hf_directory.read(folder, None)


@pytest.mark.parametrize(
    ("changed", "fact"),
    [
        ({"model_type": "swin"}, 'describes a "swin".*vit, dinov2 or resnet'),
        ({"model_type": None}, 'describes a "None"'),
        ({"num_channels": 1}, "takes 1 channels"),
    ],
)
def test_what_has_no_adapter_is_said(folder: Path, changed: dict[str, Any], fact: str) -> None:
    write(folder, "config.json", {**CONFIG, **changed})
    with pytest.raises((UserError, DataError), match=fact):
        hf_directory.read(folder, None)


@pytest.mark.parametrize(
    "broken",
    [{}, {"image_mean": [0.5], "image_std": [0.5]}, {**PROCESSOR, "image_std": [0, 1, 1]},
     {**PROCESSOR, "image_mean": "mean"}, {**PROCESSOR, "rescale_factor": 0}, []],
)  # fmt: skip
def test_a_processor_without_usable_numbers_is_refused(folder: Path, broken: Any) -> None:
    write(folder, "preprocessor_config.json", broken)
    with pytest.raises(DataError, match=r"preprocessor_config\.json"):
        hf_directory.read(folder, None)


def test_json_that_is_none_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        hf_directory.read(folder, None)


def test_no_directory_no_download(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is downloaded"):
        registry.build_classifier(ModelSection(backbone="hf:facebook/dinov2-small"), 2)
    with pytest.raises(UserError, match="is no directory"):
        registry.pinned(ModelSection(backbone=f"hf:{tmp_path / 'nowhere'}"))


def test_weights_beside_a_directory_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="The directory holds the weights"):
        registry.build_classifier(ModelSection(backbone=f"hf:{folder}", weights="other.safetensors"), 2)


def test_pinned_is_by_content_not_by_place(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = tmp_path_factory.mktemp("elsewhere") / "model"
    before = registry.pinned(ModelSection(backbone=f"hf:{folder}"))
    folder.rename(moved)
    assert registry.pinned(ModelSection(backbone=f"hf:{moved}")) == before
    assert registry.pinned(ModelSection()) == ModelSection()


def test_a_recipe_names_it_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(
        'name = "a"\n[task]\nlabels = ["a", "b"]\n[data]\npath = "d"\n[model]\nbackbone = "hf:models/dino"\n'
    )
    assert load(tmp_path / "recipe.toml").model.backbone == f"hf:{tmp_path.resolve()}/models/dino"

"""The cut networks against transformers' own."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edge_sft.errors import DataError, UserError
from edge_sft.models import hf, hf_directory, registry
from edge_sft.recipe import ModelSection

from .hf_directories import PROCESSOR, save

FAMILIES = ["vit", "dinov2", "resnet"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "transformers is not installed: that Hugging Face directories become the same network is not proved"
    pytest.importorskip("transformers", reason=reason)

    def refuse(*_args: Any, **_more: Any) -> None:
        raise AssertionError("edge-sft must not reach for the network")

    monkeypatch.setattr("socket.socket.connect", refuse)


def own_answer(built: Any, normalised: torch.Tensor) -> torch.Tensor:
    """What the library's network itself says: its last hidden state."""
    base = getattr(built, built.base_model_prefix, built)
    more = {"interpolate_pos_encoding": True} if built.config.model_type == "vit" else {}
    hidden: torch.Tensor = base(normalised, **more).last_hidden_state
    return hidden


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(32, 32), (48, 64)])
def test_it_is_transformers_own_network(family: str, size: tuple[int, int], tmp_path: Path) -> None:
    built = save(family, tmp_path)
    model, provenance = registry.build_with_provenance(ModelSection(backbone=f"hf:{tmp_path}"), 3, size)
    picture = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.uint8)
    mean, std = (torch.tensor(PROCESSOR[key]) for key in ("image_mean", "image_std"))
    normalised = ((torch.from_numpy(picture) / 255.0 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        maps = model.eval().normalise(torch.from_numpy(picture))
        assert torch.allclose(maps, normalised, atol=1e-5)
        features = model.features(maps)
        for stage in model.stages:
            maps = stage(maps)
        wanted = own_answer(built, normalised)
        assert torch.allclose(maps, wanted, atol=2e-5)
        assert model(torch.from_numpy(picture)).shape == (2, 3)
    pooled = wanted.mean((2, 3)) if family == "resnet" else torch.cat([wanted[:, 0], wanted[:, 1:].mean(1)], 1)
    assert torch.allclose(features, pooled, atol=2e-5)
    assert provenance.sha256 == hf_directory.digest(tmp_path)
    assert provenance.backbone == f"hf:{tmp_path.name}"


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_are_in_depth_order_and_hold_all_parameters(family: str, tmp_path: Path) -> None:
    save(family, tmp_path)
    model = registry.build_classifier(ModelSection(backbone=f"hf:{tmp_path}"), 3)
    assert len(model.stages) == 3
    assert not list(model.pool.parameters())


def test_random_weights_keep_the_shape(tmp_path: Path) -> None:
    built = save("dinov2", tmp_path)
    model, provenance = registry.build_with_provenance(
        ModelSection(backbone=f"hf:{tmp_path}", weights="random"), 3, (32, 32)
    )
    published = built.embeddings.patch_embeddings.projection.weight
    assert model.stages[0].projection.weight.shape == published.shape  # type: ignore[union-attr]
    assert not torch.equal(model.stages[0].projection.weight, published)  # type: ignore[union-attr, arg-type]
    assert provenance.origin == "random"


def test_a_size_that_patches_do_not_fill_is_refused_with_the_nearest(tmp_path: Path) -> None:
    save("vit", tmp_path)
    with pytest.raises(UserError, match=r"does not divide into patches of 8 pixels. Set image.size = 48"):
        registry.build_with_provenance(ModelSection(backbone=f"hf:{tmp_path}"), 3, (50, 50))


def _without_one(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["layernorm.weight"]


def _one_too_many(tensors: dict[str, torch.Tensor]) -> None:
    tensors["encoder.layer.9.norm1.weight"] = torch.zeros(32)


def _another_width(tensors: dict[str, torch.Tensor]) -> None:
    tensors["layernorm.weight"] = torch.zeros(16)


@pytest.mark.parametrize("change", [_without_one, _one_too_many, _another_width])
def test_weights_of_another_network_are_refused(change: Any, tmp_path: Path) -> None:
    save("dinov2", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"does not fit its config\.json"):
        registry.build_classifier(ModelSection(backbone=f"hf:{tmp_path}"), 3)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    save("dinov2", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    with pytest.raises(DataError, match=r"model\.safetensors"):
        registry.build_classifier(ModelSection(backbone=f"hf:{tmp_path}"), 3)


@pytest.mark.parametrize("wrong", [{"hidden_size": 30}, {"hidden_size": "wide"}, {"hidden_act": "nothing"}])
def test_a_configuration_that_cannot_be_built_is_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    save("dinov2", tmp_path)
    description = hf_directory.read(tmp_path, (32, 32)).description
    with pytest.raises(DataError, match="describes no dinov2 that can be built"):
        hf.build(description.model_copy(update={"config": {**description.config, **wrong, "num_attention_heads": 4}}))


def test_a_checkpoint_without_its_description_is_refused() -> None:
    with pytest.raises(DataError, match="does not describe"):
        hf.described(None, "checkpoint")


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save("vit", tmp_path)

    def missing(name: str) -> Any:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(hf, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'edge-sft\[hf\]'"):
        registry.build_classifier(ModelSection(backbone=f"hf:{tmp_path}"), 2)
    assert importlib.import_module is not missing

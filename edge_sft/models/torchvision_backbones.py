"""torchvision's classification networks, cut into stages."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edge_sft.errors import DeviceError
from edge_sft.models.classifier import Backbone, GlobalAverage

# ImageNet statistics on the 0–255 scale
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def build(name: str) -> Backbone:
    """Build one of torchvision's resnets, mobilenet_v3, efficientnet or convnext without weights.

    Raises:
        DeviceError: torchvision is missing or does not fit the installed torch.
    """
    return _cut(whole(name))


def whole(name: str) -> Any:
    """Return torchvision's own module, into which its published state dicts fit."""
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        raise DeviceError(
            "torchvision", f"is not usable here ({error})", "pip install torchvision, built for the installed torch."
        ) from error
    return models.get_model(name, weights=None)


def from_published(module: Any) -> Backbone:
    """Cut a module that already holds its weights."""
    return _cut(module)


class _Mean(nn.Module):
    """Average over the picture, [N,C,h,w] → [N,C,1,1].

    On channels-last maps `nn.AdaptiveAvgPool2d(1)` is exported with its strides: a Gather by indices computed from the
    batch size, which starts at the picture itself.
    """

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3), keepdim=True)


def _cut(module: Any) -> Backbone:
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
                setattr(parent, name, _Mean())
    if hasattr(module, "layer1"):  # resnet family
        stem = nn.Sequential(module.conv1, module.bn1, module.relu, module.maxpool)
        stages = nn.ModuleList([stem, module.layer1, module.layer2, module.layer3, module.layer4])
        return Backbone(stages, GlobalAverage(), int(module.fc.in_features), MEAN, STD)
    stages = nn.ModuleList(module.features.children())
    classifier = list(module.classifier.children())
    last: nn.Linear = classifier[-1]
    # what stands between pooling and the last linear layer, without its dropout: mobilenet's hidden layer,
    # convnext's norm (which wants [N,C,1,1])
    between = [layer for layer in classifier[:-1] if not isinstance(layer, (nn.Dropout, nn.Flatten))]
    if any(isinstance(layer, nn.Linear) for layer in between):
        pool: nn.Module = nn.Sequential(GlobalAverage(), *between)
    elif between:
        pool = nn.Sequential(_Mean(), *between, nn.Flatten())
    else:
        pool = GlobalAverage()
    return Backbone(stages, pool, int(last.in_features), MEAN, STD)

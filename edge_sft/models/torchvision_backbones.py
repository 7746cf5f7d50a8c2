"""torchvision's classification networks, cut into stages."""

from __future__ import annotations

from typing import Any

from torch import nn

from edge_sft.errors import DeviceError
from edge_sft.models.classifier import Backbone, GlobalAverage, PlaneAverage, average_plainly

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


def _cut(module: Any) -> Backbone:
    average_plainly(module)
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
        pool = nn.Sequential(PlaneAverage(), *between, nn.Flatten())
    else:
        pool = GlobalAverage()
    return Backbone(stages, pool, int(last.in_features), MEAN, STD)

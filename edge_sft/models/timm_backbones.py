"""Any network of timm by name; one stage, since timm's families share no cut."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edge_sft.errors import UserError
from edge_sft.models.classifier import Backbone, average_plainly


class _Features(nn.Module):
    """timm's trunk up to the features before the classifier."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, maps: Tensor) -> Tensor:
        """Return features [N,width]."""
        features: Tensor = self.network.forward_head(self.network.forward_features(maps), pre_logits=True)
        return features


def build(name: str) -> Backbone:
    """Build ``timm/<name>`` without weights; normalisation from timm's own configuration of that name.

    Raises:
        UserError: timm is missing, or knows no such network.
    """
    return from_published(whole(name))


def whole(name: str) -> Any:
    """Return timm's own module, into which its published state dicts fit."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f"backbone timm/{name}", "needs timm, which is not installed", "pip install timm") from error
    try:
        return timm.create_model(name, pretrained=False)
    except RuntimeError as error:
        raise UserError(f"backbone timm/{name}", f"is unknown to timm {timm.__version__}", "Check the name.") from error


def from_published(module: Any) -> Backbone:
    """Wrap a module that may already hold its weights."""
    average_plainly(module)
    config = module.pretrained_cfg
    mean, std = (tuple(255.0 * float(value) for value in config[key]) for key in ("mean", "std"))
    width = int(getattr(module, "head_hidden_size", None) or module.num_features)
    return Backbone(nn.ModuleList([_Features(module)]), nn.Identity(), width, _three(mean), _three(std))


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue

"""Hugging Face's ViT, DINOv2 and ResNet, cut into stages. transformers builds the layers; nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_sft.errors import DataError, UserError
from edge_sft.models import weights as stored
from edge_sft.models.classifier import Backbone, GlobalAverage
from edge_sft.models.hf_directory import Description, Directory

# model_type → transformers' module, configuration and network
_CLASSES = {
    "vit": ("vit", "ViTConfig", "ViTModel"),
    "dinov2": ("dinov2", "Dinov2Config", "Dinov2Model"),
    "resnet": ("resnet", "ResNetConfig", "ResNetModel"),
}
# parts of a published file that a picture's features do not pass through
_UNUSED = ("classifier.", "pooler.", "embeddings.mask_token")


class Patches(nn.Module):
    """Picture → tokens [N,1+patches,width]: one convolution, the class token first, positions added."""

    def __init__(self, embeddings: Any, grid: tuple[int, int]) -> None:
        super().__init__()
        self.projection = embeddings.patch_embeddings.projection
        self.cls_token = embeddings.cls_token
        self.positions = nn.Parameter(_fitted(embeddings.position_embeddings.detach(), grid))

    def forward(self, maps: Tensor) -> Tensor:
        """Turn normalised [N,3,H,W] into tokens."""
        patches = self.projection(maps).flatten(2).transpose(1, 2)
        # a token of zeros in front, to which the table adds the class token: the same numbers as expanding it over
        # the batch, and a graph that need not ask for the batch's size
        tokens = functional.pad(patches, (0, 0, 1, 0))
        return tokens + (functional.pad(self.cls_token, (0, 0, 0, patches.shape[1])) + self.positions)


class ClassAndAverage(nn.Module):
    """Tokens [N,T,width] → the class token beside the patches' average, [N,2·width]: what DINOv2's own head reads."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the features."""
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)


def build(description: Description) -> Backbone:
    """Build the network without its published weights (they are random).

    Raises:
        UserError: The `hf` extra is missing, or the picture's size does not divide into patches.
        DataError: transformers cannot build what the configuration says.
    """
    return _cut(_whole(description), description)


def from_directory(directory: Directory, *, random: bool = False) -> Backbone:
    """Build the network with the directory's weights, or with random ones of its shape. Raises as `build` does, and

    DataError: The weights are damaged or of another network.
    """
    whole = _whole(directory.description)
    if not random:
        _fill(whole, stored.read(directory.weights), directory.weights)
    return _cut(whole, directory.description)


def described(content: Mapping[str, Any] | None, where: str) -> Description:
    """Read what a checkpoint keeps of the network. Raises DataError when it is missing or is none."""
    try:
        return Description.model_validate(content)
    except ValueError as error:
        raise DataError(where, "does not describe its Hugging Face network", "Train again.") from error


def _whole(description: Description) -> Any:
    module, config_class, model_class = _CLASSES[description.family]
    _close_the_hub()
    try:
        package = f"transformers.models.{module}"
        config_type = getattr(import_module(f"{package}.configuration_{module}"), config_class)
        model_type = getattr(import_module(f"{package}.modeling_{module}"), model_class)
    except ImportError as error:
        raise UserError(
            f"a Hugging Face {description.family}",
            f"needs transformers, which is not usable here ({error})",
            "pip install 'edge-sft[hf]'",
        ) from error
    try:
        config = config_type.from_dict(dict(description.config))
        # plain products and softmax: the fused attention is exported with a dozen shape operators a layer
        config._attn_implementation = "eager"
        extra = {"add_pooling_layer": False} if description.family == "vit" else {}
        return model_type(config, **extra).eval()
    except (TypeError, ValueError, KeyError, RuntimeError, AttributeError, ZeroDivisionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            "config.json", f"describes no {description.family} that can be built ({first})", "Bring the model's own."
        ) from error


def _close_the_hub() -> None:
    """Nothing here asks a hub for anything; should a version of the libraries try, it finds the door closed."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ[name] = "1"


def _fill(whole: Any, tensors: dict[str, Tensor], path: Path) -> None:
    prefix = f"{whole.base_model_prefix}."  # present where the file was saved with a head
    own = {key.removeprefix(prefix): value.float() for key, value in tensors.items()}
    wanted = {key for key in whole.state_dict() if not key.startswith(_UNUSED)}
    foreign = sorted(key for key in own if key not in whole.state_dict() and not key.startswith(_UNUSED))
    missing = sorted(wanted - own.keys())
    if missing or foreign:
        fact = f"has no {missing[0]}" if missing else f"has {foreign[0]}, which the network has not"
        raise DataError(str(path), f"does not fit its config.json ({fact})", "Bring config and weights of one model.")
    try:
        whole.load_state_dict({key: value for key, value in own.items() if key in wanted}, strict=False)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise DataError(
            str(path), f"does not fit its config.json ({first})", "Bring config and weights of one model."
        ) from error


def _cut(whole: Any, description: Description) -> Backbone:
    mean, std = description.mean, description.std
    if description.family == "resnet":
        stages = nn.ModuleList([whole.embedder, *whole.encoder.stages])
        return Backbone(stages, GlobalAverage(), int(whole.config.hidden_sizes[-1]), mean, std)
    *layers, last = whole.encoder.layer
    patches = Patches(whole.embeddings, _grid(description, int(whole.config.patch_size)))
    stages = nn.ModuleList([patches, *layers, nn.Sequential(last, whole.layernorm)])
    return Backbone(stages, ClassAndAverage(), 2 * int(whole.config.hidden_size), mean, std)


def _grid(description: Description, patch: int) -> tuple[int, int]:
    """Return how many patches fit into height and width. Raises UserError when they do not fit exactly."""
    size = (description.height, description.width)
    if any(side % patch for side in size):
        near = [max(patch, round(side / patch) * patch) for side in size]
        raise UserError(
            f"image.size {size[0]}×{size[1]}",
            f"does not divide into patches of {patch} pixels",
            f"Set image.size = {near[0] if near[0] == near[1] else near}.",
        )
    return size[0] // patch, size[1] // patch


def _fitted(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample position embeddings [1,1+n·n,width] to another grid, once, as transformers does at every call."""
    side = int((positions.shape[1] - 1) ** 0.5)
    if grid == (side, side):
        return positions.clone()
    maps = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    maps = functional.interpolate(maps, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], maps.flatten(2).transpose(1, 2)], dim=1)

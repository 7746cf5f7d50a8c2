"""Weights of a net as arrays by name, in and out, checked before anything is overwritten."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_sft.errors import DataError
from edge_sft.federated.learner import Arrays, Part

_NORMS = (nn.BatchNorm2d, nn.BatchNorm1d, nn.LayerNorm, nn.GroupNorm)
_REMEDY = "Take weights of the same recipe and the same edge-sft version."


def copies(parameters: Mapping[str, Tensor]) -> Arrays:
    """Return float32 copies in row-major order."""
    return {
        name: np.array(value.detach().cpu().contiguous().numpy(), dtype=np.float32, order="C")
        for name, value in parameters.items()
    }


@torch.no_grad()
def overwrite(parameters: Mapping[str, Tensor], weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Overwrite the named parameters, all or none. Raises DataError: unknown names, other shapes, not finite."""
    for name, value in weights.items():
        if name not in parameters:
            raise DataError(f"weights '{name}'", "are of no such net here", _REMEDY)
        if tuple(value.shape) != tuple(parameters[name].shape):
            shapes = f"{tuple(value.shape)}, here {tuple(parameters[name].shape)}"
            raise DataError(f"weights '{name}'", f"have the shape {shapes}", _REMEDY)
        if not np.isfinite(value).all():
            raise DataError(f"weights '{name}'", "are not finite", "Ask the sender to look at its training.")
    for name, value in weights.items():
        parameters[name].copy_(torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)))


def digest(weights: Arrays) -> str:
    """Return the SHA-256 of names, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(f"{name} {weights[name].shape}\n".encode() + weights[name].tobytes())
    return found.hexdigest()


def parts_of(module: nn.Module, names: Mapping[str, Tensor], *, heads: tuple[str, ...]) -> dict[str, Part]:
    """Tell what each of these weights is.

    Args:
        module: Whose they are; the names are as its ``named_parameters`` has them.
        names: Those that learn.
        heads: What a head's names begin with.
    """
    norms = {name for name, child in module.named_modules() if isinstance(child, _NORMS)}
    found: dict[str, Part] = {}
    for name, value in names.items():
        if name.startswith(heads):
            found[name] = "head"
        elif name.rpartition(".")[0] in norms:
            found[name] = "norm"
        else:
            found[name] = "bias" if value.ndim == 1 else "body"
    return found

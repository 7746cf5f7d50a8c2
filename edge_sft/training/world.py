"""One process, or several that share each batch: the few things they must say to each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor


class World(Protocol):
    """What fine-tuning needs to know of its fellow processes."""

    rank: int
    size: int

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        ...

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite each tensor with rank 0's."""
        ...

    def agree(self, value: float) -> float:
        """Return rank 0's value everywhere."""
        ...


class Alone:
    """The only process."""

    rank = 0
    size = 1

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Leave everything as it is."""

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Leave everything as it is."""

    def agree(self, value: float) -> float:
        """Return the value."""
        return value


class Group:
    """A process group that torchrun started and `torch.distributed` has joined."""

    def __init__(self, device: torch.device) -> None:
        from torch import distributed

        self._all = distributed
        self._device = device
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Sum in one flat message: many small ones cost more than they carry."""
        parts = list(tensors)
        flat = torch.cat([part.reshape(-1) for part in parts])
        self._all.all_reduce(flat)
        at = 0
        for part in parts:
            part.copy_(flat[at : at + part.numel()].view_as(part))
            at += part.numel()

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite each tensor with rank 0's."""
        for tensor in tensors:
            self._all.broadcast(tensor, src=0)

    def agree(self, value: float) -> float:
        """Return rank 0's value everywhere."""
        carrier = torch.tensor([value], dtype=torch.float64, device=self._device)
        self._all.broadcast(carrier, src=0)
        return float(carrier.item())

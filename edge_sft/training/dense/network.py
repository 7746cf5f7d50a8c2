"""A detector or segmenter being trained: first stages frozen, norms' statistics fixed, the rest learning."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_sft.models.dense import Dense
from edge_sft.models.efficientnet_lite import ConvNorm
from edge_sft.recipe import TrainSection
from edge_sft.training.network import Parameters

# What starts from nothing learns so many times faster than the pre-trained stage below it.
_NEW_TIMES = 4.0
_TO_MEASURE = 32  # tiles


class DenseNetwork:
    """The network and what of it learns."""

    def __init__(self, dense: Dense, train: TrainSection, device: torch.device) -> None:
        self.dense = dense.to(device).to(memory_format=torch.channels_last).eval()
        self.device = device
        self.bf16 = train.precision == "bf16" or (train.precision == "auto" and device.type == "cuda")
        self.frozen = min(train.frozen_stages, len(dense.stages))
        for stage in dense.stages[: self.frozen]:
            stage.requires_grad_(False)
        for module in dense.modules():
            if isinstance(module, ConvNorm):
                module.fold = True  # same numbers, fewer passes over memory

    @property
    def learning(self) -> Parameters:
        """The parameters that learn, by name."""
        return {name: value for name, value in self.dense.named_parameters() if value.requires_grad}

    def copy(self) -> Parameters:
        """Return copies of what learns."""
        return {name: value.detach().clone() for name, value in self.learning.items()}

    @torch.no_grad()
    def put(self, parameters: Parameters) -> None:
        """Overwrite what learns."""
        for name, value in self.learning.items():
            value.copy_(parameters[name])

    def raw(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what the loss looks at, of 0–255 pictures [N,H,W,3]."""
        with self._cast():
            return self.dense.raw(images.to(self.device), self.frozen)

    @torch.no_grad()
    def answers(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32] | NDArray[np.int32], ...]:
        """Return the task's outputs as arrays."""
        with self._cast():
            raw = self.dense.raw(torch.from_numpy(images).to(self.device))
            told = self.dense.head.answers(tuple(value.float() for value in raw))  # type: ignore[operator]
        return tuple(value.cpu().numpy() for value in told)

    @torch.no_grad()
    def measure(self, images: NDArray[np.uint8]) -> None:
        """Fix the statistics of the new norms: what their inputs are on some training tiles before the first step.

        Batches are too small to measure them anew in each step; the same tiles give the same numbers, so that a
        training that goes on after a kill measures what it measured before.
        """
        new = [*self.dense.pyramid.modules(), *self.dense.head.modules()]
        norms = [module for module in new if isinstance(module, ConvNorm)]
        handles = [norm.register_forward_pre_hook(_measured) for norm in norms]
        chosen = np.linspace(0, len(images) - 1, min(_TO_MEASURE, len(images))).astype(int)
        self.dense.raw(torch.from_numpy(np.ascontiguousarray(images[chosen])).to(self.device))
        for handle in handles:
            handle.remove()

    def groups(self, train: TrainSection) -> list[dict[str, object]]:
        """Return the optimiser's parameter groups: rates decay towards the picture, norms and biases keep their size.

        Each group has ``base``, the rate that the schedule multiplies.
        """
        depth = len(self.dense.stages)
        found: dict[tuple[int, bool], list[nn.Parameter]] = {}
        for name, value in self.dense.named_parameters():
            if value.requires_grad:
                stage = int(name.split(".")[1]) if name.startswith("stages.") else depth
                found.setdefault((stage, value.ndim > 1), []).append(value)
        return [
            {
                "params": values,
                "base": train.learning_rate
                * (_NEW_TIMES if stage == depth else train.layer_decay ** (depth - 1 - stage)),
                "weight_decay": train.weight_decay if heavy else 0.0,
            }
            for (stage, heavy), values in sorted(found.items(), key=lambda item: item[0])
        ]

    def _cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)


def _measured(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Set a norm's statistics to those of what its convolution gives."""
    assert isinstance(module, ConvNorm)
    maps = module.conv(inputs[0])
    mean, variance = module.norm.running_mean, module.norm.running_var
    assert mean is not None
    assert variance is not None
    mean.copy_(maps.mean(dim=(0, 2, 3)))
    variance.copy_(maps.var(dim=(0, 2, 3), unbiased=False))

"""Backbone, pyramid and head as one network: uint8 pictures in, the task's outputs out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from edge_sft.models.classifier import Classifier
from edge_sft.models.dense.pyramid import Pyramid, Tap

Raw = tuple[Tensor, ...]


class Head(Protocol):
    """What a kind of task puts on the pyramid; an `nn.Module`."""

    def raw(self, maps: Tensor) -> Raw:
        """Turn the pyramid's map into what the loss looks at."""
        ...

    def answers(self, raw: Raw) -> Raw:
        """Turn that into the task's outputs, in order."""
        ...


class Dense(nn.Module):
    """``forward`` takes uint8 NHWC RGB [N,H,W,3] and returns the task's outputs; ``raw`` is what training looks at."""

    mean: Tensor
    std: Tensor

    def __init__(self, classifier: Classifier, taps: Sequence[Tap], width: int, head: nn.Module) -> None:
        super().__init__()
        self.stages = classifier.stages[: taps[-1].stage + 1]
        self.taps = tuple(tap.stage for tap in taps)
        self.pyramid = Pyramid([tap.channels for tap in taps], width)
        self.head = head
        # not persistent: they belong to the backbone's name, not to what was learnt
        self.register_buffer("mean", classifier.mean.clone(), persistent=False)
        self.register_buffer("std", classifier.std.clone(), persistent=False)

    def normalise(self, image: Tensor) -> Tensor:
        """Turn uint8 or 0–255 float [N,H,W,3] into normalised float [N,3,H,W]; the cast comes first."""
        return (image.to(self.mean.dtype).permute(0, 3, 1, 2) - self.mean) / self.std

    def tapped(self, maps: Tensor, frozen: int = 0) -> list[Tensor]:
        """Run the stages on normalised pictures, the first ``frozen`` without gradients, for the pyramid."""
        kept = []
        for index, stage in enumerate(self.stages):
            with torch.set_grad_enabled(torch.is_grad_enabled() and index >= frozen):
                maps = stage(maps)
            if index in self.taps:
                kept.append(maps)
        return kept

    def raw(self, image: Tensor, frozen: int = 0) -> Raw:
        """Return the head's numbers before they are decoded."""
        head: Head = self.head  # type: ignore[assignment]
        return head.raw(self.pyramid(self.tapped(self.normalise(image), frozen)))

    def forward(self, image: Tensor) -> Raw:
        """Return the task's outputs, in its order."""
        head: Head = self.head  # type: ignore[assignment]
        return head.answers(head.raw(self.pyramid(self.tapped(self.normalise(image)))))

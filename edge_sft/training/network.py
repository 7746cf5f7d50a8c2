"""A classifier being fine-tuned: its first stages frozen, its norms' statistics fixed, the rest learning."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_sft.models.classifier import Classifier
from edge_sft.models.efficientnet_lite import ConvNorm
from edge_sft.recipe import TrainSection

Parameters = dict[str, Tensor]  # names as in Classifier.state_dict()


class Network:
    """The classifier cut in two: ``lower`` never changes, ``upper`` learns."""

    def __init__(self, classifier: Classifier, train: TrainSection, device: torch.device) -> None:
        self.classifier = classifier.to(device).to(memory_format=torch.channels_last).eval()
        self.device = device
        self.bf16 = train.precision == "bf16" or (train.precision == "auto" and device.type == "cuda")
        most = min(classifier.taps, default=len(classifier.stages) // 2)  # a stage that is read must be run
        self.frozen = min(train.frozen_stages, most)
        for stage in classifier.stages[: self.frozen]:
            stage.requires_grad_(False)
        for module in classifier.modules():
            if isinstance(module, ConvNorm):
                module.fold = True  # same numbers, fewer passes over memory

    @property
    def learning(self) -> Parameters:
        """The parameters that learn, by name."""
        return {name: value for name, value in self.classifier.named_parameters() if value.requires_grad}

    def copy(self) -> Parameters:
        """Return copies of what learns."""
        return {name: value.detach().clone() for name, value in self.learning.items()}

    @torch.no_grad()
    def put(self, parameters: Parameters) -> None:
        """Overwrite what learns."""
        for name, value in self.learning.items():
            value.copy_(parameters[name])

    @torch.no_grad()
    def lower(self, images: Tensor) -> Tensor:
        """Run the frozen stages on 0–255 pictures [N,H,W,3]."""
        with self._cast():
            maps = self.classifier.normalise(images.to(self.device))
            for stage in self.classifier.stages[: self.frozen]:
                maps = stage(maps)
        return maps

    def features(self, maps: Tensor) -> Tensor:
        """Run the learning stages, → float32 [N,width]."""
        with self._cast():
            features = self.classifier.features_from(maps, self.frozen)
        return features.float()

    def logits(self, maps: Tensor) -> Tensor:
        """Run the learning stages and the head, → float32 [N,K]."""
        result: Tensor = self.classifier.head(self.classifier.dropout(self.features(maps)))
        return result

    def groups(self, train: TrainSection) -> list[dict[str, object]]:
        """Return the optimiser's parameter groups: rates decay towards the picture, norms and biases keep their size.

        Each group has ``base``, the rate that the schedule multiplies.
        """
        depth = len(self.classifier.stages)
        found: dict[tuple[int, bool], list[nn.Parameter]] = {}
        for name, value in self.classifier.named_parameters():
            if value.requires_grad:
                stage = int(name.split(".")[1]) if name.startswith("stages.") else depth
                found.setdefault((stage, value.ndim > 1), []).append(value)
        return [
            {
                "params": values,
                "base": train.learning_rate * train.layer_decay ** (depth - stage),
                "weight_decay": train.weight_decay if heavy else 0.0,
            }
            for (stage, heavy), values in sorted(found.items(), key=lambda item: item[0])
        ]

    def _cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

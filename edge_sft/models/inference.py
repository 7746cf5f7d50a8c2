"""What is exported: uint8 pictures in, probabilities out, everything between inside the graph."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from edge_sft import checkpoint as files
from edge_sft.models.registry import load_classifier


class InferenceModule(nn.Module):
    """``image`` uint8 [N,H,W,3] → ``probabilities`` float32 [N,K] = softmax(logits / temperature); eval mode.

    Raises:
        DataError: The directory holds no intact checkpoint.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        self.classifier = load_classifier(checkpoint)
        self.temperature = float(files.read_meta(checkpoint, verify=False).temperature)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Return probabilities [N,K]."""
        return torch.softmax(self.classifier(image) / self.temperature, dim=1)

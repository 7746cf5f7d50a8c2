"""What all anomaly methods see of a window, masked statistics of each channel in the machine's own units; their table.

No memory in them is made centrally: one that does not come from the machine itself is worse than none (a bank
from one test bed's healthy day found .02–.23 F1 on its other days, each day's own first minutes .80).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from edge_sft.errors import UserError
from edge_sft.preprocess import Windowing
from edge_sft.task import Task

# each has build(config) -> nn.Module
METHODS = {
    "bank": "edge_sft.models.sensors.bank",
    "t2q": "edge_sft.models.sensors.t2q",
    "encoder": "edge_sft.models.sensors.encoder",
}
STATISTICS = 3  # mean, standard deviation, slope
_TINY = 1e-6
_HALF = 0.5


class WindowStatistics(nn.Module):
    """Mean, standard deviation and slope of each channel, of what is valid, after the machine's own z-score.

    Forward: ``window``, ``valid`` float32 [N,T,C], ``mean``, ``std`` float32 [C] (std > 0) → ``features`` float32
    [N, 3·C] (all means, then all deviations, then all slopes; 0 where a channel is missing) and ``seen`` float32
    [N, C], 1 where a channel is there. The slope is the least-squares change from the window's middle to its end.

    A channel counts as missing when it has no valid value, or less than half of what it usually has beside the others:
    few values have statistics of their own, and a sensor that drops out would look like a fault of the machine.

    Only elementwise operators and sums over T: TensorRT takes them, the only constants are T time steps and C shares.

    Args:
        length: Grid steps T.
        usual: Share of valid steps that each channel usually has, 1/T to 1; None = one valid value is enough.
    """

    time: Tensor
    per_usual: Tensor | None

    def __init__(self, length: int, usual: Sequence[float] | None = None) -> None:
        super().__init__()
        per_usual = None if usual is None else 1.0 / (length * torch.tensor(usual).reshape(1, -1))
        self.register_buffer("per_usual", per_usual, persistent=False)  # not in checkpoints: the config says it
        steps = torch.linspace(-1.0, 1.0, length) if length > 1 else torch.zeros(1)
        self.register_buffer("time", steps.reshape(1, length, 1))

    def forward(self, window: Tensor, valid: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [N, 3·C] and what was seen [N, C]."""
        z = (window - mean) / std * valid
        count = valid.sum(dim=1)
        seen = torch.clamp(count, max=1.0)
        if self.per_usual is not None:
            filled = count * self.per_usual
            seen = seen * (filled >= _HALF * filled.amax(dim=1, keepdim=True)).to(seen.dtype)
        n = torch.clamp(count, min=1.0)
        centre = z.sum(dim=1) / n
        middle = (self.time * valid).sum(dim=1) / n
        apart = (z - centre.unsqueeze(1)) * valid
        lever = (self.time - middle.unsqueeze(1)) * valid
        spread = torch.sqrt((apart * apart).sum(dim=1) / n + _TINY)
        slope = (lever * apart).sum(dim=1) / ((lever * lever).sum(dim=1) + _TINY)
        return torch.cat([centre * seen, spread * seen, slope * seen], dim=1), seen


def shares(evidence: Tensor) -> Tensor:
    """Turn each channel's evidence [N,C], zero or more, into shares that add up to 1."""
    padded = evidence + _TINY
    return padded / padded.sum(dim=1, keepdim=True)


def watched(seen: Tensor, each: int = STATISTICS) -> Tensor:
    """Return how many of the features (``each`` a channel) are there, [N,1]; a window without any divides by it and
    becomes NaN.
    """
    return each * seen.sum(dim=1, keepdim=True)


def build(task: Task, windowing: Windowing, config: dict[str, Any]) -> nn.Module:
    """Build the module of an anomaly checkpoint; ``config`` holds ``architecture``, ``clip`` and, where there
    are examples, ``neighbours`` and ``sharp``; for the encoder ``embedding`` and ``shape``; ``usual`` where known.

    Raises:
        UserError: The architecture is none of `METHODS`.
    """
    name = str(config["architecture"])
    if name not in METHODS:
        raise UserError(f"architecture '{name}'", "is no anomaly detector", f"Known: {', '.join(METHODS)}.")
    shapes = {"length": windowing.length, "channels": len(windowing.names)}
    module: nn.Module = import_module(METHODS[name]).build({**config, **shapes})
    return module.eval()

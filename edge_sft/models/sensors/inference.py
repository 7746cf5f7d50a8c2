"""A sensor checkpoint's network, filled and ready to be exported or asked."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from edge_sft import checkpoint as files
from edge_sft.errors import DataError
from edge_sft.models.sensors.registry import build


def load(checkpoint: Path) -> nn.Module:
    """Load a sensor checkpoint's module, in eval mode.

    Its ``forward`` takes the task's inputs in order (``window``, ``valid`` float32 [N,T,C], then what is local) and
    returns a tuple of the task's outputs in order.

    Raises:
        DataError: No checkpoint, damaged weights, or weights of another network.
    """
    from safetensors.torch import load_file

    meta = files.read_meta(checkpoint)
    module = build(meta.task, meta.windowing, dict(meta.training["config"]))
    try:
        module.load_state_dict(load_file(checkpoint / files.WEIGHTS))
    except RuntimeError as error:
        raise DataError(str(checkpoint), f"does not hold a {meta.backbone} network", "Train again.") from error
    return module.eval()

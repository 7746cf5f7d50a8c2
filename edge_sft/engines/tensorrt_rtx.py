"""TensorRT-RTX 1.x as an Engine: x86 machines with an RTX GPU. All of it is in `edge_sft.engines.nvidia`."""

from __future__ import annotations

from pathlib import Path

from edge_sft.engines.nvidia.opening import open_nvidia
from edge_sft.engines.nvidia.running import NvidiaEngine
from edge_sft.engines.protocol import Workplace
from edge_sft.profile import DeviceProfile


def open_engine(model: Path, profile: DeviceProfile, building: Workplace) -> NvidiaEngine:
    """Open a variant; raises what `open_nvidia` does."""
    return open_nvidia("tensorrt_rtx", model, profile, building)

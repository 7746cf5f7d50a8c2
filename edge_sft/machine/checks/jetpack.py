"""JetPack: whether this release carries what edge-sft needs."""

from __future__ import annotations

from edge_sft.machine.finding import Finding
from edge_sft.machine.jetson import jetpack, jetpack_version, jetson_linux

_UPGRADE = "Flash JetPack 6.2 or newer with NVIDIA's SDK Manager; 7.2 is the first of 7 for Orin."


def release(text: str) -> Finding | None:
    """Judge /etc/nv_tegra_release; None where this is no Jetson."""
    linux = jetson_linux(text)
    if not linux:
        return None
    known = jetpack(linux)
    if known is None:
        about = f"JetPack {jetpack_version(linux)}, " if jetpack_version(linux) else ""
        fact = f"{about}Jetson Linux {linux}, which this version of edge-sft does not list"
        return Finding("note", "JetPack", fact, "Look at TensorRT below: 10.3 or newer is what counts.")
    fact = (
        f"{known.version} (Jetson Linux {linux}): comes with CUDA {known.cuda}, cuDNN {known.cudnn}, "
        f"TensorRT {known.tensorrt}, Python {known.python}"
    )
    if known.tensorrt.startswith("8."):
        return Finding("bad", "JetPack", f"{fact}; TensorRT 10.3 is needed", _UPGRADE)
    return Finding("good", "JetPack", fact)

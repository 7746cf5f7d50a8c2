"""Python, ONNX Runtime, OpenCV: what edge-sft itself stands on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edge_sft.machine.finding import Finding

RUNTIMES: Final = ("onnxruntime", "onnxruntime-gpu")


def python(version: tuple[int, ...], own: str, system: str) -> Finding:
    """Judge the interpreter."""
    fact = f"edge-sft {own} on Python {'.'.join(map(str, version[:3]))}, {system}"
    if (3, 10) <= version[:2] <= (3, 12):
        return Finding("good", "versions", fact)
    return Finding("bad", "versions", fact, "Use Python 3.10, 3.11 or 3.12.")


def onnx_runtime(versions: Mapping[str, str], providers: tuple[str, ...], problem: str) -> Finding:
    """Judge ONNX Runtime; finds the two wheels that overwrite each other.

    Args:
        versions: Of the installed wheels, by name.
        providers: What it was built with.
        problem: Why it does not load; empty = it does.
    """
    found = [name for name in RUNTIMES if versions.get(name)]
    if not found:
        return Finding("bad", "ONNX Runtime", "is not installed", "pip install 'edge-sft[cpu]' (or [gpu])")
    if len(found) == 2:
        return Finding(
            "bad",
            "ONNX Runtime",
            "onnxruntime and onnxruntime-gpu are both installed: one has overwritten the other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install exactly one of them.",
        )
    if problem:
        return Finding("bad", "ONNX Runtime", f"does not load ({problem})", "Install it again.")
    built = ", ".join(providers)
    return Finding(
        "good", "ONNX Runtime", f"{found[0]} {versions[found[0]]}; built with {built} (what runs, a session tells)"
    )


def opencv(version: str, problem: str, build: str) -> Finding:
    """Judge OpenCV: its system libraries, and whether it takes GStreamer pipelines (``cv2.getBuildInformation()``)."""
    if "libGL" in problem or "libgthread" in problem:
        remedy = "pip uninstall opencv-python; pip install opencv-python-headless (or apt install libgl1)"
        return Finding("bad", "OpenCV", f"a system library is missing ({problem})", remedy)
    if "NumPy 1.x" in problem or "_ARRAY_API" in problem or "multiarray" in problem:
        remedy = "pip install 'numpy<2' where the system's OpenCV is used, or pip install 'edge-sft[vision]'"
        return Finding("bad", "OpenCV", "was built for NumPy 1, NumPy 2 is installed", remedy)
    if "No module named 'cv2'" in problem:
        fact = "is not installed: pictures need it, sensor readings do not"
        return Finding("note", "OpenCV", fact, "pip install 'edge-sft[vision]'")
    if problem:
        return Finding("bad", "OpenCV", f"does not load ({problem})", "pip install 'edge-sft[vision]'")
    lines = [line for line in build.splitlines() if "GStreamer:" in line]
    pipelines = any("YES" in line for line in lines)
    return Finding("good", "OpenCV", f"{version}, {'with' if pipelines else 'without'} GStreamer pipelines")


def training(torch: str | None) -> Finding:
    """Tell whether this machine can train; a device need not."""
    if torch:
        return Finding("good", "training", f"PyTorch {torch} is here")
    return Finding("note", "training", "not installed; a device needs none", "To train: pip install 'edge-sft[train]'")

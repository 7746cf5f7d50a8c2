"""`edge-sft doctor`: what this machine has, what is wrong with it, what to do. Never changes anything."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from edge_sft.cli.console import console
from edge_sft.cli.paths import device_root

Health = Literal["good", "note", "bad"]
_MARKS = {"good": "[green]good[/]", "note": "[yellow]note[/]", "bad": "[red]bad[/] "}
_RELEASED_S = 1_767_225_600  # 2026-01-01: a clock before this is wrong, and certificates will fail on it


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    health: Health
    thing: str
    fact: str
    remedy: str = ""


def doctor(
    broker: Annotated[str | None, typer.Option(help="MQTT broker to try, HOST or HOST:PORT")] = None,
    root: Annotated[Path | None, typer.Option(help="the device's folder of slots and journals")] = None,
) -> None:
    """Look at versions, ONNX Runtime, OpenCV, clock, disk and broker; say what to mend."""
    checks: list[Callable[[], Finding]] = [
        python_version,
        onnx_runtime,
        opencv,
        training_stack,
        clock,
        lambda: disk(root or device_root()),
    ]
    if broker:
        checks.append(lambda: reachable(broker))
    findings = [check() for check in checks]
    for finding in findings:
        console.print(f"{_MARKS[finding.health]}  {finding.thing}: {finding.fact}")
        if finding.remedy:
            console.print(f"      → {finding.remedy}")
    if any(finding.health == "bad" for finding in findings):
        raise typer.Exit(5)


def python_version() -> Finding:
    """Look at the interpreter and edge-sft's own version."""
    import edge_sft

    version = ".".join(map(str, sys.version_info[:3]))
    fact = f"edge-sft {edge_sft.__version__} on Python {version}, {sys.platform}"
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        return Finding("good", "versions", fact)
    return Finding("bad", "versions", fact, "Use Python 3.10, 3.11 or 3.12.")


def onnx_runtime() -> Finding:
    """Find ONNX Runtime, and the two wheels that overwrite each other."""
    wheels = {name: installed_version(name) for name in ("onnxruntime", "onnxruntime-gpu")}
    found = {name: number for name, number in wheels.items() if number}
    if not found:
        return Finding("bad", "ONNX Runtime", "is not installed", "pip install 'edge-sft[cpu]' (or [gpu])")
    if len(found) == 2:
        return Finding(
            "bad",
            "ONNX Runtime",
            "onnxruntime and onnxruntime-gpu are both installed: one has overwritten the other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install exactly one of them.",
        )
    try:
        import onnxruntime

        providers = ", ".join(onnxruntime.get_available_providers())
    except (ImportError, AttributeError) as error:
        return Finding("bad", "ONNX Runtime", f"does not load ({error})", "Install it again.")
    name, number = next(iter(found.items()))
    return Finding("good", "ONNX Runtime", f"{name} {number}; built with {providers} (what runs, a session tells)")


def opencv() -> Finding:
    """Find OpenCV and the system library that its desktop wheel needs."""
    try:
        import cv2
    except ImportError as error:
        if "libGL" in str(error) or "libgthread" in str(error):
            remedy = "pip uninstall opencv-python; pip install opencv-python-headless (or apt install libgl1)"
            return Finding("bad", "OpenCV", f"a system library is missing ({error})", remedy)
        return Finding("bad", "OpenCV", "is not installed", "pip install 'edge-sft[vision]'")
    return Finding("good", "OpenCV", str(cv2.__version__))


def training_stack() -> Finding:
    """Tell whether this machine can train; a device need not."""
    torch = installed_version("torch")
    if torch:
        return Finding("good", "training", f"PyTorch {torch} is here")
    return Finding("note", "training", "not installed; a device needs none", "To train: pip install 'edge-sft[train]'")


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def clock() -> Finding:
    """Catch the clock of a machine whose battery died."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < _RELEASED_S:
        return Finding(
            "bad", "clock", f"says {stamp}, which is in the past", "Set it (NTP): TLS fails on a wrong clock."
        )
    return Finding("good", "clock", stamp)


def disk(root: Path) -> Finding:
    """Tell the free space where slots and journals live."""
    existing = next(parent for parent in (root, *root.absolute().parents) if parent.exists())
    free_mb = shutil.disk_usage(existing).free // 1_000_000
    fact = f"{free_mb:,} MB free under {existing}"
    if free_mb < 200:
        return Finding("bad", "disk", fact, "Free at least 200 MB: two slots and the journal live there.")
    return Finding("good", "disk", fact)


def reachable(broker: str) -> Finding:
    """Open a TCP connection to the broker."""
    host, _, port = broker.partition(":")
    try:
        with socket.create_connection((host, int(port or 1883)), timeout=3):
            return Finding("good", "broker", f"{broker} accepts connections")
    except ValueError:
        return Finding("bad", "broker", f"'{broker}' is not HOST:PORT", "For example: --broker 192.168.0.10:1883")
    except socket.gaierror:
        return Finding("bad", "broker", f"the name '{host}' is not known", "Check the name or give the address.")
    except OSError as error:
        remedy = "Is it running, and is the port open?"
        return Finding("bad", "broker", f"{broker} cannot be reached ({error.strerror or error})", remedy)

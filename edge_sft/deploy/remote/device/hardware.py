"""What the device is made of, as its own files and programs say it; read where edge-sft is, by `machine.telling`."""

from __future__ import annotations

import subprocess
from pathlib import Path

_LIMIT_S = 10.0  # a driver without its persistence daemon wakes for seconds; a hung one must not hold up the link
_FILES = {
    "cpuinfo": "proc/cpuinfo",
    "meminfo": "proc/meminfo",
    "tegra_release": "etc/nv_tegra_release",
    "model": "proc/device-tree/model",
    "compatible": "proc/device-tree/compatible",
}
_SMI = ["nvidia-smi", "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader,nounits"]


def texts(root: Path = Path("/")) -> dict[str, str]:
    """Return the files as they are, and what nvidia-smi says; empty where there is none."""
    told = {name: _read(root / path) for name, path in _FILES.items()}
    try:
        done = subprocess.run(_SMI, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {**told, "nvidia_smi": ""}
    return {**told, "nvidia_smi": done.stdout.decode(errors="replace") if done.returncode == 0 else ""}


def _read(path: Path) -> str:
    try:
        return path.read_bytes()[:65536].decode(errors="replace")
    except OSError:
        return ""

"""What the device is: said once, when the link stands."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from edge_sft.deploy.remote.device.disk import name_of


def default_root() -> Path:
    """Return where edge-sft keeps a user's slots when nobody says otherwise."""
    data = os.environ.get("XDG_DATA_HOME") or str(Path("~/.local/share").expanduser())
    return Path(os.environ.get("EDGE_SFT_ROOT") or f"{data}/edge-sft")


def look(root: Path) -> dict[str, Any]:
    """Return the device's facts; asks nothing that could fail."""
    there = next((one for one in (root, *root.parents) if one.exists()), Path("/"))
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "executable": sys.executable,
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "system": _system(),
        "user": name_of(os.getuid()),
        "root": str(root),
        "lacks": _lacks(),
        "free_bytes": shutil.disk_usage(there).free,
        "clock_s": time.time(),
    }


def _system() -> str:
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.system()
    told = dict(line.split("=", 1) for line in lines if "=" in line)
    return told.get("PRETTY_NAME", platform.system()).strip('"')


def _lacks() -> str:
    """Return the Debian package without which no environment can be made, or nothing."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    return f"python{version}-venv" if missing else ""

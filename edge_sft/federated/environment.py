"""What every Flower process is started with: nothing phones home or is installed, no file of the user's is read."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edge_sft.errors import DeviceError

_SILENT: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # Otherwise a SuperLink runs `uv sync` before each run, which needs the internet.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Threads that spin while they wait cost 16 times the time beside busy processes.
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONUNBUFFERED": "1",
    "NO_COLOR": "1",
}
# The last three would send loopback through a company's proxy or trust other authorities.
_LEFT_OUT: Final = ("FLWR_", "PYTHONSTARTUP", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_")


def flower_environment(base: Mapping[str, str], home: Path, *, proxies: bool = False) -> dict[str, str]:
    """Return the environment of a Flower process.

    Args:
        base: What the command line was started with.
        home: Flower's folder (FLWR_HOME): its configuration and what it unpacks. Never the user's own.
        proxies: Keep HTTP(S)_PROXY: a site may need its company's proxy, the coordinator's loopback never does.
    """
    left_out = _LEFT_OUT[:2] if proxies else _LEFT_OUT
    kept = {name: value for name, value in base.items() if not name.upper().startswith(left_out)}
    # Flower starts its own programs by name.
    path = f"{Path(sys.executable).parent}:{base.get('PATH', '/usr/local/bin:/usr/bin:/bin')}"
    return {**kept, **_SILENT, "FLWR_HOME": str(home), "PATH": path}


def flower_program(name: str) -> str:
    """Return the path of one of Flower's programs, which lie beside this Python.

    Raises:
        DeviceError: Flower is not installed here.
    """
    program = Path(sys.executable).parent / name
    if not program.exists():
        raise DeviceError(
            "Flower",
            f"is not installed beside {sys.executable} ({name} is missing)",
            "Federated fine-tuning needs Python 3.11 or 3.12 and: pip install 'edge-sft[federated]'",
        )
    return str(program)

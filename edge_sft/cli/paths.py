"""Where things live on this machine when nobody says otherwise. The only place that reads the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def device_root() -> Path:
    """Folder of slots, journals and state: ``EDGE_SFT_ROOT``, or the user's data folder."""
    given = os.environ.get("EDGE_SFT_ROOT")
    if given:
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "edge-sft"
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "edge-sft"


def keys_directory() -> Path:
    """Folder of signing and trusted keys: ``EDGE_SFT_KEYS``, or the user's configuration folder."""
    given = os.environ.get("EDGE_SFT_KEYS")
    if given:
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", Path.home())) / "edge-sft" / "keys"
    return Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "edge-sft" / "keys"


def wheelhouses_directory() -> Path:
    """Folder of the wheelhouses made for devices: the user's cache, where anything may be deleted at any time."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "edge-sft" / "wheelhouses"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edge-sft" / "wheelhouses"


def federation_directory() -> Path:
    """Folder of the federation that this machine coordinates: the user's state folder."""
    return Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "edge-sft" / "federation"


def site_directory() -> Path:
    """Folder of the site of a federation that this machine is: the user's state folder."""
    return Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "edge-sft" / "site"


def environment() -> dict[str, str]:
    """Return the environment, for programs that are started."""
    return dict(os.environ)


def notify_socket() -> str | None:
    """Where the service manager listens (systemd, Type=notify), or None."""
    return os.environ.get("NOTIFY_SOCKET")


def heartbeat_file() -> Path | None:
    """Where the agent leaves its heartbeat (``EDGE_SFT_HEARTBEAT``), or None: nobody asked for one."""
    given = os.environ.get("EDGE_SFT_HEARTBEAT")
    return Path(given) if given else None


def quiet_opencv() -> None:
    """Keep OpenCV and its FFmpeg from printing at every try to reach a camera; the agent says it once, in words."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

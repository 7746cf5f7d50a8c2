"""The systemd unit of the coordinator: one file of data, filled in for a machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from edge_sft.deploy.unit import quoted
from edge_sft.errors import UserError
from edge_sft.federated.coordinator import Federation, Folder
from edge_sft.federated.invite import split_address

NAME: Final = "edge-sft-federation.service"
_STATE: Final = Path("/var/lib")


def render(folder: Folder, federation: Federation, *, python: Path, user: str) -> str:
    """Return the unit's text.

    Args:
        folder: The federation's folder; below /var/lib systemd makes and guards it.
        federation: What federation.toml says.
        python: The interpreter that has edge-sft and Flower.
        user: Whom it runs as; its own user, never root.

    Raises:
        UserError: A path or name that a unit cannot carry, or root as the user.
    """
    if user == "root" or not re.fullmatch(r"[a-z_][a-z0-9_-]*", user):
        raise UserError(f"--user {user}", "cannot run the coordinator", "Give a user of its own, such as edge-sft.")
    root = folder.root
    managed = root.parent == _STATE and re.fullmatch(r"[A-Za-z0-9._-]+", root.name)
    below_1024 = split_address(federation.listen)[1] < 1024
    capability = "CAP_NET_BIND_SERVICE" if below_1024 else ""
    at_home = any(path.parts[1:2] in (("home",), ("root",)) for path in (root, python))
    words: list[Path | str] = [python, "-I", "-m", "edge_sft.cli.main", "federate", "up", "--dir", root]
    values = {
        "command": " ".join(quoted(word) for word in words),
        "user": user,
        "state": f"StateDirectory={root.name}\nStateDirectoryMode=0700"
        if managed
        else f"ReadWritePaths={quoted(root)}",
        "ports": f"CapabilityBoundingSet={capability}\nAmbientCapabilities={capability}",
        "root": str(root).replace("%", "%%"),
        "home": "read-only" if at_home else "yes",
    }
    text = (Path(__file__).parent / NAME).read_text(encoding="utf-8")
    return re.sub(r"@([a-z_]+)@", lambda found: values[found[1]], text)

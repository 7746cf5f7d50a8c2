"""The systemd unit of the agent: one file of data, filled in for a machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_sft.errors import UserError

NAME: Final = "edge-sft.service"
_STATE: Final = Path("/var/lib")


@dataclass(frozen=True)
class Service:
    """What the unit says of this machine.

    Attributes:
        python: The interpreter that has edge-sft; best through the link `software/current`.
        root: Folder of slots, journal and state.
        config: agent.toml.
        user: Whom it runs as; its own user, never root.
        groups: Further groups that are there, for cameras and GPUs.
        memory_mb: Above this it is slowed down; at one and a half times this it is ended and starts again.
    """

    python: Path
    root: Path
    config: Path
    user: str = "edge-sft"
    groups: tuple[str, ...] = ()
    memory_mb: int = 2048


def render(service: Service) -> str:
    """Return the unit's text.

    Raises:
        UserError: A path or name that a unit cannot carry, or root as the user.
    """
    if service.user == "root" or not re.fullmatch(r"[a-z_][a-z0-9_-]*", service.user):
        raise UserError(f"--user {service.user}", "cannot run the agent", "Give a user of its own, such as edge-sft.")
    root = service.root
    managed = root.parent == _STATE and re.fullmatch(r"[A-Za-z0-9._-]+", root.name)
    state = f"StateDirectory={root.name}\nStateDirectoryMode=0750" if managed else f"ReadWritePaths={quoted(root)}"
    words: list[Path | str] = [service.python, "-I", "-m", "edge_sft.cli.main", "run"]
    words += ["--config", service.config, "--root", root]
    at_home = any(_at_home(path) for path in (root, service.python, service.config))
    values = {
        "command": " ".join(quoted(word) for word in words),
        "user": service.user,
        "groups": f"SupplementaryGroups={' '.join(service.groups)}" if service.groups else "# no group for cameras",
        "state": state,
        "memory_high": f"{service.memory_mb}M",
        "memory_max": f"{service.memory_mb * 3 // 2}M",
        "root": _escaped(root),
        "home": "read-only" if at_home else "yes",
        # Without capabilities and with devices by group, a user namespace would map the group `video` away.
        "private_users": "no" if service.groups else "yes",
    }
    text = (Path(__file__).parent / NAME).read_text(encoding="utf-8")
    return re.sub(r"@([a-z_]+)@", lambda found: values[found[1]], text)


def _at_home(path: Path) -> bool:
    return path.parts[1:2] in (("home",), ("root",))


def _escaped(path: Path) -> str:
    """Return a path for a line that takes exactly one."""
    text = path.as_posix()
    if not path.is_absolute() or any(ord(letter) < 32 for letter in text):
        raise UserError(text, "cannot stand in a unit", "Give an absolute path without control characters.")
    return text.replace("%", "%%")


def quoted(word: Path | str) -> str:
    """Return a word for a unit's command line. Raises UserError for a path that a unit cannot carry."""
    text = _escaped(word) if isinstance(word, Path) else word
    if not re.search(r"[\s\"'\\;$]", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"'

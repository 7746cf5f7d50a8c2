"""What is looked at, and by whom."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from pathlib import Path

from edge_sft.machine.finding import Finding


@dataclass(frozen=True)
class Place:
    """What is looked at beside the machine itself.

    Attributes:
        root: Folder of slots and journals.
        broker: HOST or HOST:PORT.
        ca_file: As in agent.toml; so are the next two.
        cert_file: See above.
        key_file: See above.
        cameras: Numbers that agent.toml names.
        files: Where the system's files lie.
    """

    root: Path
    broker: str | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    cameras: tuple[int, ...] = ()
    files: Path = Path("/")


def user() -> str:
    """Return who we are; a container may have no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid()) if hasattr(os, "getuid") else "this user"


def there(*found: Finding | None) -> list[Finding]:
    """Leave out the checks that do not concern this machine."""
    return [one for one in found if one is not None]

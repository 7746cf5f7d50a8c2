"""`edge-sft service`: the agent as a hardened systemd service."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_sft.cli.console import console
from edge_sft.errors import DeviceError, UserError

if TYPE_CHECKING:
    from edge_sft.deploy.unit import Service

_UNITS = Path("/etc/systemd/system")
_USERS = Path("/etc/sysusers.d/edge-sft.conf")
_GROUPS = ("video", "render")
Root = Annotated[Path, typer.Option(help="Folder of slots, journal and state.")]
Config = Annotated[Path, typer.Option(help="The agent's configuration.")]
User = Annotated[str, typer.Option(help="Whom it runs as; made if it is not there.")]
Memory = Annotated[int, typer.Option(help="MemoryHigh in MB; above it the agent is slowed down.")]
_ROOT, _CONFIG = Path("/var/lib/edge-sft"), Path("/etc/edge-sft/agent.toml")


def show(root: Root = _ROOT, config: Config = _CONFIG, user: User = "edge-sft", memory_mb: Memory = 2048) -> None:
    """Print the unit for this machine; changes nothing."""
    from edge_sft.deploy.unit import render

    print(render(_service(root, config, user, memory_mb)), end="")


def install(
    root: Root = _ROOT,
    config: Config = _CONFIG,
    user: User = "edge-sft",
    memory_mb: Memory = 2048,
    start: Annotated[bool, typer.Option("--start", help="Start it now, or again if it runs.")] = False,
) -> None:
    """Write the unit and its user, and have the agent start with the machine. Needs root."""
    from edge_sft import durable
    from edge_sft.deploy.unit import NAME, render

    text = render(_service(root, config, user, memory_mb))
    if os.name != "posix" or os.geteuid() != 0:
        raise UserError("edge-sft service install", "needs root", "Run it with sudo, or look at: edge-sft service show")
    _make_user(user, root)
    path = _UNITS / NAME
    durable.write_text(path, text)
    console.print(f"wrote {path}")
    if not Path("/run/systemd/system").is_dir():
        console.print("systemd does not run here: it counts from the next start of the machine")
        return
    _run("systemctl", "daemon-reload")
    _run("systemctl", "enable", NAME)
    if start:
        _run("systemctl", "restart", NAME)
    console.print(f"the agent starts with the machine; its log: journalctl -u {NAME}")


def _service(root: Path, config: Path, user: str, memory_mb: int) -> Service:
    from edge_sft.deploy.unit import Service

    linked = root / "software" / "current" / "bin" / "python"
    python = linked if linked.exists() else Path(sys.executable)
    return Service(python, root.absolute(), config.absolute(), user, _groups(), memory_mb)


def _groups() -> tuple[str, ...]:
    if os.name != "posix":
        return ()
    import grp

    known = {entry.gr_name for entry in grp.getgrall()}
    return tuple(name for name in _GROUPS if name in known)


def _make_user(user: str, root: Path) -> None:
    import pwd

    from edge_sft import durable

    try:
        pwd.getpwnam(user)
    except KeyError:
        durable.write_text(_USERS, f'u {user} - "edge-sft agent" {root}\n')
        _run("systemd-sysusers", str(_USERS))


def _run(*command: str) -> None:
    if shutil.which(command[0]) is None:
        raise DeviceError(command[0], "is not installed", "apt install systemd")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise DeviceError(" ".join(command), f"failed ({last})", "Look at: systemctl status edge-sft")

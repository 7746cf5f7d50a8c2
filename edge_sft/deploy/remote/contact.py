"""First contact: a host key is shown and confirmed by a person, never accepted in silence."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from edge_sft import durable
from edge_sft.deploy.remote.openssh import OpenSsh, fingerprint
from edge_sft.errors import NetworkError

Confirm = Callable[[str], bool]


def meet(ssh: OpenSsh, *, accepted: str | None, confirm: Confirm | None) -> str:
    """Make an unknown host known.

    Args:
        ssh: How to reach it.
        accepted: The fingerprint that the user expects, ``SHA256:…``.
        confirm: Asks a person a question; None where nobody is there.

    Returns:
        The fingerprint that is now known.

    Raises:
        NetworkError: It cannot be reached, or nobody vouched for its key.
    """
    with tempfile.TemporaryDirectory() as folder:
        line = ssh.offered_key(Path(folder))
        kind, shown = fingerprint(line, Path(folder))
    who = str(ssh.address)
    if accepted is not None and accepted != shown:
        raise NetworkError(
            who,
            f"shows the host key {shown} ({kind}), not the one you gave",
            "Another machine answers, or the fingerprint is of another key: ssh-keygen -l -f "
            f"/etc/ssh/ssh_host_{kind.lower()}_key.pub on the device shows it.",
        )
    question = f"{who} was never spoken to from here. Its {kind} host key is\n  {shown}\nIs this the device?"
    if accepted is None and not (confirm is not None and confirm(question)):
        raise NetworkError(
            who,
            f"was never spoken to from here; its {kind} host key is {shown}",
            f"Compare it with the device's own console, then add: --accept-host-key {shown}",
        )
    _remember(ssh.known_hosts(), line)
    return shown


def _remember(path: Path, line: str) -> None:
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    gap = "" if not before or before.endswith("\n") else "\n"
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700, parents=True)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{gap}{line}\n")
    except OSError as error:
        raise durable.disk_error(path, error) from error

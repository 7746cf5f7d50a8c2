"""``ssh://user@host[:port]``, read strictly: what is not understood is refused, not guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from edge_sft.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]*\$?")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*|[0-9a-fA-F:.]+")


@dataclass(frozen=True)
class Address:
    """Where a device is reached. ``user`` and ``port`` are None where the user's ssh configuration says them."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")

    @property
    def arguments(self) -> list[str]:
        """What to give to `ssh`."""
        user = ["-l", self.user] if self.user else []
        port = ["-p", str(self.port)] if self.port else []
        return [*user, *port, "--", self.host]


def is_remote(to: str) -> bool:
    """Tell whether ``--to`` names another machine."""
    return to.startswith("ssh:")


def parse(to: str) -> Address:
    """Read an address.

    Raises:
        UserError: It is none.
    """
    try:
        parts = urlsplit(to)
        port = parts.port
    except ValueError as error:
        raise _not_understood(to, str(error)) from error
    host, user = parts.hostname, unquote(parts.username) if parts.username else None
    if parts.scheme != "ssh" or not host:
        raise _not_understood(to, "it names no host")
    if parts.password is not None:
        raise _not_understood(to, "a password does not belong into it")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise _not_understood(to, f"'{parts.path}' does not belong into it; the device's folder is given with --root")
    name = parts.netloc.rpartition("@")[2]  # the host as written: `hostname` is in small letters
    written = name.rpartition(":")[0] if port is not None and not name.endswith("]") else name
    written = written.strip("[]")
    if not _HOST.fullmatch(written) or (user and not _NAME.fullmatch(user)):
        raise _not_understood(to, "user or host has characters that it cannot have")
    return Address(written, user, port)


def _not_understood(to: str, why: str) -> UserError:
    return UserError(f"--to {to}", f"is no address ({why})", "Give local, or ssh://user@host or ssh://user@host:port.")

"""Calling the OpenSSH client, so that the user's own configuration, agent, known hosts and jump hosts count."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_sft.deploy.remote.address import Address
from edge_sft.errors import DeviceError, EdgeSftError, NetworkError, UserError

_CONNECT_S = 15
_UNKNOWN = re.compile(r"No .* host key is known for|authenticity of host .* can't be established")
_CHANGED = "REMOTE HOST IDENTIFICATION HAS CHANGED"


class UnknownHostKey(NetworkError):
    """The device was never spoken to from here."""


@dataclass(frozen=True)
class OpenSsh:
    """How to reach one device.

    Attributes:
        address: Which.
        config: A configuration file instead of the user's own.
        ask: Whether somebody is there to type a password into the terminal.
    """

    address: Address
    config: Path | None = None
    ask: bool = False

    def command(self, remote: str, extra: Sequence[str] = ()) -> list[str]:
        """Return the command that runs ``remote`` over there; an unknown or changed host key ends it."""
        fixed = {
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "BatchMode": "no" if self.ask else "yes",
            "ConnectTimeout": str(_CONNECT_S),
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "RemoteCommand": "none",
            "RequestTTY": "no",
            "LogLevel": "ERROR" if self.ask else "INFO",
        }
        options = [word for key, value in fixed.items() for word in ("-o", f"{key}={value}")]
        return [*self._ssh(), *extra, *options, *self.address.arguments, remote]

    def known_hosts(self) -> Path:
        """Return the file into which the user's ssh writes host keys. Raises UserError when ssh refuses its options."""
        done = _run([*self._ssh(), "-G", *self.address.arguments])
        if done.returncode != 0:
            raise UserError("ssh", _last(done.stderr), "Look at your ssh configuration.")
        told = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
        first = told.get("userknownhostsfile", "~/.ssh/known_hosts").split()[0]
        return Path(first).expanduser()

    def offered_key(self, scratch: Path) -> str:
        """Return the known_hosts line of the key that the host offers; nothing is sent to it, nothing is trusted.

        Raises:
            NetworkError: It cannot be reached.
        """
        heard = scratch / "offered"
        extra = ["-o", f'UserKnownHostsFile="{heard}"', "-o", "GlobalKnownHostsFile=/dev/null"]
        extra += ["-o", "StrictHostKeyChecking=accept-new", "-o", "PreferredAuthentications=none"]
        extra += ["-o", "ControlPath=none", "-o", "LogLevel=INFO", "-o", "BatchMode=yes"]
        done = _run(self.command("true", extra))  # the first value given for an option counts
        lines = heard.read_text(encoding="utf-8").splitlines() if heard.is_file() else []
        if not lines:
            raise self.failure(done.stderr)
        return lines[0]

    def _ssh(self) -> list[str]:
        program = shutil.which("ssh")
        if program is None:
            raise DeviceError("ssh", "is not installed on this machine", "apt install openssh-client, or the like.")
        return [program, "-T", *(["-F", str(self.config)] if self.config else [])]

    def failure(self, said: str) -> EdgeSftError:
        """Turn what ssh said when it could not reach the device into words."""
        who = str(self.address)
        user = self.address.user or "your own name"
        by_hand = shlex.join(["ssh", *(word for word in self.address.arguments if word != "--")])
        table: list[tuple[str, str, str]] = [
            ("Could not resolve hostname", "the name is not known", "Check the name, or give the address."),
            ("Connection refused", "refuses the connection", "Is an SSH server running there, on that port?"),
            ("timed out", "does not answer", "Is it switched on, and the address right?"),
            ("No route to host", "cannot be reached (no route to host)", "Check the network and the address."),
            ("Network is unreachable", "cannot be reached (network is unreachable)", "Check this machine's network."),
            (
                "Too many authentication failures",
                f"refuses user '{user}' (too many keys were offered)",
                "Name the right key in ~/.ssh/config: IdentityFile and IdentitiesOnly yes.",
            ),
            (
                "Permission denied",
                f"does not let user '{user}' in ({_methods(said)})",
                f"Check the user's name and the key; by hand: {by_hand}",
            ),
        ]
        if _CHANGED in said:
            shown = re.search(r"SHA256:\S+", said)
            return NetworkError(
                who,
                f"shows another host key than the one known here ({shown[0].rstrip('.') if shown else 'changed'}): "
                "another machine answers, or it was installed anew",
                f"If it was, look at the key on its own console, then: ssh-keygen -R {_named(self.address)}",
            )
        if _UNKNOWN.search(said):
            return UnknownHostKey(who, "was never spoken to from here: its host key is not known")
        for mark, fact, remedy in table:
            if mark in said:
                return NetworkError(who, fact, remedy)
        return NetworkError(who, f"cannot be reached ({_last(said)})", f"Try it by hand: {by_hand}")


def fingerprint(line: str, scratch: Path) -> tuple[str, str]:
    """Return (kind, fingerprint) of a known_hosts line, e.g. ("ED25519", "SHA256:…")."""
    path = scratch / "one"
    path.write_text(line + "\n", encoding="utf-8")
    told = _run(["ssh-keygen", "-l", "-E", "sha256", "-f", str(path)]).stdout.split()
    if len(told) < 3:
        raise NetworkError("host key", "cannot be read", "Is ssh-keygen installed on this machine?")
    return told[-1].strip("()"), told[1]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False, timeout=120
    )


def _methods(said: str) -> str:
    found = re.search(r"Permission denied \(([^)]*)\)", said)
    return f"it takes {found[1]}" if found else "permission denied"


def _named(address: Address) -> str:
    return f"'[{address.host}]:{address.port}'" if address.port not in (None, 22) else address.host


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "ssh said nothing"

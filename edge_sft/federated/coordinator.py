"""The coordinator's folder: what it is called, its authority, its server certificate, and where the rest lies.

federation.toml   name, address, ports          ca.pem ca.key   the authority
sites.toml        who may take part             server.pem .key what sites see
superlink.db      Flower's own memory           flwr/           Flower's own folder
proxy/            nginx: configuration, logs    runs/           one folder a run
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edge_sft import durable, strict_toml
from edge_sft.errors import DeviceError, UserError
from edge_sft.federated import pki
from edge_sft.federated.invite import Address, split_address

PROXY_PORT: Final = 8443
# Unassigned by IANA (29170 to 29998 are), and below what Linux lends to outgoing connections.
SUPERLINK_PORT: Final = 29400
_LENT: Final = 32768  # and up: net.ipv4.ip_local_port_range as it comes
RENEW: Final = "Renew it with: edge-sft federate init --renew (sites need nothing new)."
# nginx takes `$`, quotes and braces for its own; nobody's folder needs them.
_FOLDER: Final = re.compile(r"^[A-Za-z0-9._/@+~ -]+$")


def _plain(name: str) -> str:
    if not re.match(r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,47}$", name):
        raise ValueError("a federation's name has up to 48 letters, digits, blanks and . _ -")
    return name


class Federation(BaseModel):
    """federation.toml.

    Attributes:
        name: What people call it.
        address: ``host:port`` by which sites reach the proxy.
        names: Further host names and IP addresses for the certificate.
        listen: ``host:port`` on which the proxy listens.
        superlink_port: Port on loopback of Flower's SuperLink.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    name: Annotated[str, AfterValidator(_plain)]
    address: Address
    names: tuple[str, ...] = ()
    listen: Address
    superlink_port: Annotated[int, Field(gt=0, lt=65536)] = SUPERLINK_PORT

    @property
    def certified(self) -> tuple[str, ...]:
        """All names that the certificate must have."""
        return (split_address(self.address)[0], *self.names)


@dataclass(frozen=True)
class Folder:
    """Where everything of one federation lies at its coordinator."""

    root: Path

    @property
    def settings(self) -> Path:
        """federation.toml."""
        return self.root / "federation.toml"

    @property
    def authority(self) -> Path:
        """The authority's certificate; sites trust it."""
        return self.root / "ca.pem"

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.root / "server.pem"

    @property
    def key(self) -> Path:
        """The server's private key."""
        return self.root / "server.key"

    @property
    def sites(self) -> Path:
        """sites.toml."""
        return self.root / "sites.toml"

    @property
    def runs(self) -> Path:
        """One folder a run."""
        return self.root / "runs"

    @property
    def database(self) -> Path:
        """Flower's database: without it every site is forgotten at a restart."""
        return self.root / "superlink.db"

    @property
    def flower_home(self) -> Path:
        """FLWR_HOME."""
        return self.root / "flwr"

    @property
    def proxy(self) -> Path:
        """nginx's configuration, logs and temporary files."""
        return self.root / "proxy"


def create(root: Path, federation: Federation, now: datetime) -> Folder:
    """Make a federation's folder with its authority and server certificate.

    Args:
        root: A folder that holds no federation yet.
        federation: What federation.toml says.
        now: UTC.

    Raises:
        UserError: There is a federation already, the folder's name has odd characters, or a name is none.
        DeviceError: The disk refuses, or the clock is wrong.
    """
    folder = Folder(root.absolute())
    if folder.settings.exists():
        raise UserError(str(folder.settings), "exists already", "Use it, renew it (--renew), or choose another --dir.")
    if not _FOLDER.match(str(folder.root)):
        raise UserError(str(folder.root), "has characters that nginx takes for its own", "Choose another --dir.")
    authority = pki.make_authority(federation.name, now)
    server = pki.issue_server(authority, federation.certified, now)
    try:
        for part in (folder.root, folder.runs, folder.flower_home):
            part.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise durable.disk_error(folder.root, error) from error
    write_secret(folder.root / "ca.key", authority.key)
    durable.write_bytes(folder.authority, authority.certificate)
    write_secret(folder.key, server.key)
    durable.write_bytes(folder.certificate, server.certificate)
    durable.write_text(folder.settings, _text(federation))  # last: what has it is complete
    return folder


def load(root: Path) -> tuple[Folder, Federation]:
    """Read a federation's folder. Raises UserError when there is none, or federation.toml is wrong."""
    folder = Folder(root.absolute())
    if not folder.settings.exists():
        raise UserError(
            str(folder.root), "holds no federation", "Make one with: edge-sft federate init --address HOST:PORT"
        )
    return folder, strict_toml.load(folder.settings, Federation)


def renew(root: Path, now: datetime, names: Sequence[str] = ()) -> pki.Facts:
    """Issue a new server certificate by the same authority, with further names where wanted.

    Raises:
        UserError: No federation there, its authority's key is elsewhere, or a name is none.
        DeviceError: The disk refuses, the clock is wrong, or the authority has expired.
    """
    folder, federation = load(root)
    key = folder.root / "ca.key"
    if not key.exists():
        raise UserError(str(key), "is not there", "Bring the authority's key back for as long as renewing takes.")
    wider = federation.model_copy(update={"names": tuple(dict.fromkeys([*federation.names, *names]))})
    server = pki.issue_server(pki.Pair(folder.authority.read_bytes(), key.read_bytes()), wider.certified, now)
    write_secret(folder.key, server.key)
    durable.write_bytes(folder.certificate, server.certificate)
    durable.write_text(folder.settings, _text(wider))
    return pki.facts(server.certificate)


def warnings(folder: Folder, federation: Federation, now: datetime) -> list[str]:
    """Check the certificates and the clock.

    Returns:
        What should be done soon.

    Raises:
        DeviceError: A certificate that has ended or not begun, or lacks the federation's address.
    """
    server = pki.facts(folder.certificate.read_bytes())
    anew = "Make a new federation in a new folder and invite every site again."
    told = [
        pki.check("the server's certificate", server, now, RENEW),
        pki.check("the federation's authority", pki.facts(folder.authority.read_bytes()), now, anew),
    ]
    lacking = [name for name in federation.certified if name not in server.names]
    if lacking:
        raise DeviceError("the server's certificate", f"lacks {', '.join(lacking)}", RENEW)
    return [one for one in (*told, _lent(federation.superlink_port)) if one]


def _lent(port: int) -> str:
    if port < _LENT:
        return ""
    return (
        f"superlink_port {port} is among those that Linux lends to outgoing connections ({_LENT} and up) and may be "
        f"taken when `federate up` starts. Write {SUPERLINK_PORT} in federation.toml; sites need nothing new."
    )


def write_secret(path: Path, content: bytes) -> None:
    """Replace a file that only its owner may read, durably. Raises DeviceError when the disk refuses."""
    name = ""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")  # 0600 from birth
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
        durable.sync_directory(path.parent)
    except OSError as error:
        if name:
            with contextlib.suppress(OSError):
                Path(name).unlink()
        raise durable.disk_error(path, error) from error


def _text(federation: Federation) -> str:
    names = ", ".join(f'"{name}"' for name in federation.names)
    return f"""# Written by edge-sft federate init; read again when edge-sft federate up starts.
version = {federation.version}
name = "{federation.name}"
# Where sites reach the proxy; the certificate must have this name (edge-sft federate init --renew after a change).
address = "{federation.address}"
names = [{names}]
# Where the proxy listens.
listen = "{federation.listen}"
# Flower's SuperLink, on loopback only: whoever reaches it can start runs.
superlink_port = {federation.superlink_port}
"""

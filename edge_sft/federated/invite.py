"""The two files people carry: the invite from the coordinator to a site, and the site's public key back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edge_sft import durable, strict_toml
from edge_sft.errors import DataError
from edge_sft.federated import pki

SITE_NAME: Final = re.compile(r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")


def _site_name(name: str) -> str:
    if not SITE_NAME.match(name):
        raise ValueError("a site's name has 1 to 32 of a-z, 0-9 and '-', neither first nor last a '-'")
    return name


def _address(text: str) -> str:
    split_address(text)
    return text


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` (``[::1]:port`` for IPv6). Raises ValueError in words."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536 or not host.strip("[]"):
        raise ValueError("an address is HOST:PORT")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("an IPv6 address stands in brackets: [ADDRESS]:PORT")
    return host.strip("[]"), int(port)


SiteName = Annotated[str, AfterValidator(_site_name)]
Address = Annotated[str, AfterValidator(_address)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Invite(_Strict):
    """What a site needs to join. Nothing in it is secret, but it must arrive unchanged: compare the fingerprint.

    Attributes:
        version: Of this file's form.
        site: The site's name, as the coordinator will call it.
        address: ``host:port`` of the coordinator's proxy.
        ca: The authority's certificate, PEM.
        ca_sha256: SHA-256 of its DER: what people compare over the telephone.
        apps: SHA-256 of the Flower apps that may run at the site; any other is refused there.
        edge_sft: The coordinator's version.
    """

    version: Literal[1] = 1
    site: SiteName
    address: Address
    ca: str
    ca_sha256: Sha256
    apps: Annotated[tuple[Sha256, ...], Field(min_length=1)]
    edge_sft: str


class Join(_Strict):
    """A site's answer: its public key in SSH's form (ECDSA P-384) and that key's fingerprint."""

    version: Literal[1] = 1
    site: SiteName
    public_key: str
    fingerprint: str
    edge_sft: str


def read_invite(path: Path) -> Invite:
    """Read an invite.

    Raises:
        UserError: Not an invite.
        DataError: Its certificate is not the one that its fingerprint names.
    """
    invite = strict_toml.load(path, Invite)
    if pki.facts(invite.ca.encode()).fingerprint != invite.ca_sha256:
        raise DataError(str(path), "was changed: its certificate does not have its fingerprint", "Ask for a new one.")
    return invite


def write_invite(path: Path, invite: Invite) -> None:
    """Write an invite durably. Raises DeviceError when the disk refuses."""
    listed = ", ".join(f'"{digest}"' for digest in invite.apps)
    text = f"""# An invite to federated fine-tuning: edge-sft site join {path.name} --data FOLDER
version = {invite.version}
site = "{invite.site}"
address = "{invite.address}"
edge_sft = "{invite.edge_sft}"
# The programs that may run at the site (SHA-256); any other is refused there.
apps = [{listed}]
# Compare this over the telephone: {pki.spoken(invite.ca_sha256)}
ca_sha256 = "{invite.ca_sha256}"
ca = '''
{invite.ca.strip()}
'''
"""
    durable.write_text(path, text)


def read_join(path: Path) -> Join:
    """Read a site's answer.

    Raises:
        UserError: Not such a file, or a key of another kind.
        DataError: Its key is not the one that its fingerprint names.
    """
    join = strict_toml.load(path, Join)
    if pki.key_fingerprint(join.public_key) != join.fingerprint:
        raise DataError(str(path), "was changed: its key does not have its fingerprint", "Ask the site for a new one.")
    return join


def write_join(path: Path, join: Join) -> None:
    """Write a site's answer durably. Raises DeviceError when the disk refuses."""
    text = f"""# For the coordinator: edge-sft site approve {path.name}
version = {join.version}
site = "{join.site}"
edge_sft = "{join.edge_sft}"
fingerprint = "{join.fingerprint}"
public_key = "{join.public_key.strip()}"
"""
    durable.write_text(path, text)

"""Joining a federation: an invite becomes a site of its own key, and a file for the coordinator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from edge_sft import durable
from edge_sft.errors import UserError
from edge_sft.federated import pki, site_files
from edge_sft.federated.invite import Invite, Join, read_invite, write_join
from edge_sft.federated.site_files import SiteFile

_RENEW: Final = "Ask the coordinator for a new invite."


@dataclass(frozen=True)
class Joined:
    """What joining left: the site, the file for the coordinator, the key's fingerprint, what to know besides."""

    site: SiteFile
    join: Path
    fingerprint: str
    warning: str = ""


def open_invite(path: Path, now: datetime) -> tuple[Invite, str]:
    """Read an invite and judge its authority's days.

    Returns:
        The invite, and a warning to show or nothing.

    Raises:
        UserError: Not an invite, or of another version of its form.
        DataError: It was changed on its way.
        DeviceError: Its authority has expired, or this machine's clock is wrong.
    """
    invite = read_invite(path)
    return invite, pki.check("the coordinator's authority", pki.facts(invite.ca.encode()), now, _RENEW)


def join(directory: Path, invite: Invite, data: Path, answer: Path, *, version: str) -> Joined:
    """Make this folder a site: who it is, the authority, a key of its own; and write the coordinator's file.

    Joining again with an invite of the same name keeps the key, so that nothing must be approved again; this is how a
    new address, authority or list of apps arrives.

    Args:
        directory: The site's folder.
        invite: As `open_invite` returned it.
        data: The site's pictures or rows.
        answer: Where the file for the coordinator goes.
        version: Of edge-sft here.

    Raises:
        UserError: The folder is another site's, or the data is not there.
        DeviceError: The disk refuses.
    """
    if not data.exists():
        raise UserError(str(data), "does not exist", "Give the folder of this site's data: --data DIR")
    if (directory / site_files.SITE).is_file():
        known = site_files.read_site(directory)
        if known.site != invite.site:
            remedy = "Give another folder (--dir DIR), or leave that federation first: edge-sft site leave"
            raise UserError(str(directory), f"belongs to the site '{known.site}', not '{invite.site}'", remedy)
    site_files.make_private(directory)
    public = own_key(directory)
    site = SiteFile(
        site=invite.site,
        address=invite.address,
        data=str(data.resolve()),
        apps=invite.apps,
        ca_sha256=invite.ca_sha256,
    )
    durable.write_text(directory / site_files.CA, invite.ca.strip() + "\n")
    site_files.write_site(directory, site)
    fingerprint = pki.key_fingerprint(public)
    write_join(answer, Join(site=site.site, public_key=public, fingerprint=fingerprint, edge_sft=version))
    return Joined(site, answer, fingerprint)


def own_key(directory: Path) -> str:
    """Return the site's public key (one line, OpenSSH's form); the pair is made when there is none.

    Raises:
        UserError: The private key there is damaged.
        DeviceError: The disk refuses.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
        load_ssh_private_key,
    )

    private = directory / site_files.KEY
    if not private.exists():
        made = ec.generate_private_key(ec.SECP384R1())
        pem = made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        site_files.write_secret(private, pem)
    try:
        key = load_ssh_private_key(private.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm, OSError) as error:
        remedy = "Leave and join again (edge-sft site leave); the coordinator must then approve the new key."
        raise UserError(str(private), "is damaged or no key without a passphrase", remedy) from error
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    durable.write_text(directory / site_files.PUBLIC, public + "\n")
    return public


def keep_recipe(directory: Path, recipe: Path) -> None:
    """Keep the recipe that was given with the invite, for looking at the data again. Raises UserError, DeviceError."""
    try:
        durable.write_bytes(directory / site_files.RECIPE, recipe.read_bytes())
    except OSError as error:
        raise UserError(str(recipe), f"cannot be read ({error.strerror or error})", "Check the path.") from error

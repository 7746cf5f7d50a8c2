"""Who may take part: sites.toml at the coordinator, which gives Flower's nameless nodes their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, model_validator

from edge_sft import durable, strict_toml
from edge_sft.errors import UserError
from edge_sft.federated.invite import Join, SiteName


class Site(BaseModel):
    """One site's row.

    Attributes:
        name: What people, the ledger and the report call it.
        fingerprint: Of its public key, as `ssh-keygen -l` prints it.
        node_id: Flower's, as decimal digits; TOML's integers end at 63 bits.
        state: ``approved`` or ``revoked``.
        since: When that was said, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: SiteName
    fingerprint: str
    node_id: str
    state: Literal["approved", "revoked"]
    since: str


class Sites(BaseModel):
    """sites.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: tuple[Site, ...] = ()

    @model_validator(mode="after")
    def _one_each(self) -> Sites:
        names = [site.name for site in self.approved]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"approved twice: {', '.join(sorted(twice))}")
        return self

    @property
    def approved(self) -> tuple[Site, ...]:
        """Those that may take part, by name."""
        return tuple(sorted((one for one in self.site if one.state == "approved"), key=lambda one: one.name))

    def named(self, name: str) -> Site | None:
        """Return the approved site of this name."""
        return next((one for one in self.approved if one.name == name), None)


class Gate(Protocol):
    """What lets keys in and out: Flower's Control API."""

    def register(self, public_key: str) -> int:
        """Let a key in; return its node's id."""
        ...

    def unregister(self, node_id: int) -> None:
        """Put a node out."""
        ...


def read(path: Path) -> Sites:
    """Read sites.toml; none is nobody. Raises UserError when it is damaged."""
    return strict_toml.load(path, Sites) if path.exists() else Sites()


def approve(path: Path, join: Join, gate: Gate, now: datetime) -> Site:
    """Let a site in and remember its name.

    Args:
        path: sites.toml.
        join: What the site sent.
        gate: Flower.
        now: UTC.

    Raises:
        UserError: The name or the key is taken, or the key was revoked (a revoked key never comes back).
        NetworkError: Flower does not answer.
    """
    sites = read(path)
    same = next((one for one in sites.site if one.fingerprint == join.fingerprint), None)
    if same is not None and same.state == "approved" and same.name == join.site:
        return same
    if same is not None:
        fact = f"was {'revoked' if same.state == 'revoked' else f'approved as {same.name}'} on {same.since[:10]}"
        raise UserError(
            f"the key of {join.site}",
            fact,
            "That key stays out for good. At the site: edge-sft site leave, then join again, which makes a new key.",
        )
    if sites.named(join.site):
        raise UserError(
            f"a site named {join.site}",
            "is approved already, with another key",
            f"If that one is gone: edge-sft site revoke {join.site}. If not, invite under another name.",
        )
    site = Site(
        name=join.site,
        fingerprint=join.fingerprint,
        node_id=str(gate.register(join.public_key)),
        state="approved",
        since=_moment(now),
    )
    _write(path, [*sites.site, site])
    return site


def revoke(path: Path, name: str, gate: Gate, now: datetime) -> Site:
    """Put a site out; its running node is ended at its next heartbeat, within half a minute.

    Raises:
        UserError: No approved site has this name.
        NetworkError: Flower does not answer; the site is then still in.
    """
    sites = read(path)
    site = sites.named(name)
    if site is None:
        known = ", ".join(one.name for one in sites.approved) or "none yet"
        raise UserError(f"site {name}", f"is not approved (approved: {known})", "See: edge-sft site list")
    gate.unregister(int(site.node_id))
    gone = site.model_copy(update={"state": "revoked", "since": _moment(now)})
    _write(path, [gone if one is site else one for one in sites.site])
    return gone


def _moment(now: datetime) -> str:
    return re.sub(r"\+00:00$", "Z", now.isoformat(timespec="seconds"))


def _write(path: Path, sites: Iterable[Site]) -> None:
    rows = [
        f"""
[[site]]
name = "{site.name}"
fingerprint = "{site.fingerprint}"
node_id = "{site.node_id}"
state = "{site.state}"
since = "{site.since}"
"""
        for site in sites
    ]
    durable.write_text(
        path, "# Written by edge-sft site approve and revoke; Flower knows its nodes by id only.\n" + "".join(rows)
    )

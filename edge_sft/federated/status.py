"""How a federation is: its sites, its runs, its certificates, whether its programs answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

from edge_sft.errors import EdgeSftError
from edge_sft.federated import coordinator, pki, running, sites
from edge_sft.federated.coordinator import Federation, Folder
from edge_sft.federated.run_store import RECIPE, STOPPED
from edge_sft.federated.superlink import Node


class Nodes(Protocol):
    """What knows the registered nodes."""

    def nodes(self) -> dict[int, Node]:
        """Return them by id."""
        ...


@dataclass(frozen=True)
class SiteStatus:
    """A site: ``state`` is online, offline, never seen, revoked or unknown; ``seen`` when that began, UTC."""

    name: str
    state: str
    seen: str
    fingerprint: str


@dataclass(frozen=True)
class RunStatus:
    """A run: rounds done of those asked for, ``state`` finished, stopped or open, and its last round in words."""

    name: str
    state: str
    rounds: int
    of: int
    last: str


@dataclass(frozen=True)
class Status:
    """All of it; ``problems`` are what a person should mend."""

    name: str
    address: str
    superlink: str
    certificate_days: int
    ca_sha256: str
    sites: tuple[SiteStatus, ...]
    runs: tuple[RunStatus, ...]
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return asdict(self)


def look(folder: Folder, federation: Federation, control: Nodes, now: datetime) -> Status:
    """Look at a federation; what cannot be seen is among the problems."""
    problems: list[str] = []
    nodes: dict[int, Node] | None = None
    try:
        problems += coordinator.warnings(folder, federation, now)
    except EdgeSftError as error:
        problems.append(str(error))
    try:
        nodes = control.nodes()
    except EdgeSftError as error:
        problems.append(str(error))
    server = pki.facts(folder.certificate.read_bytes())
    return Status(
        name=federation.name,
        address=federation.address,
        superlink="answers" if nodes is not None else "does not answer",
        certificate_days=server.days_left(now),
        ca_sha256=pki.facts(folder.authority.read_bytes()).fingerprint,
        sites=tuple(site_status(site, nodes) for site in sites.read(folder.sites).site),
        runs=tuple(_run(path) for path in sorted(folder.runs.iterdir()) if (path / RECIPE).exists()),
        problems=tuple(problems),
    )


def site_status(site: sites.Site, nodes: Mapping[int, Node] | None) -> SiteStatus:
    """Return a site's status by what Flower says of its node; None when Flower says nothing."""
    if site.state == "revoked":
        return SiteStatus(site.name, "revoked", site.since, site.fingerprint)
    if nodes is None:
        return SiteStatus(site.name, "unknown", "", site.fingerprint)
    node = nodes.get(int(site.node_id))
    if node is None or node.status == "unregistered":
        return SiteStatus(site.name, "unknown to Flower: revoke it and have it join again", "", site.fingerprint)
    if node.status == "online":
        return SiteStatus(site.name, "online", node.online_at, site.fingerprint)
    seen = "" if node.offline_at == "N/A" else node.offline_at
    return SiteStatus(site.name, "offline" if seen else "never seen", seen, site.fingerprint)


def _run(path: Any) -> RunStatus:
    rows = running.history(path)
    stopped = path / STOPPED
    state = "finished" if running.finished(path) else "stopped" if stopped.exists() else "open"
    last = running.told(rows[-1]) if rows else ""
    if state == "stopped":
        last = stopped.read_text(encoding="utf-8").strip()
    return RunStatus(path.name, state, running.done(rows), running.rounds_of(path), last)

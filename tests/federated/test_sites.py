"""Who may take part: approving, revoking, and every way in which a name or key is taken."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_sft.errors import NetworkError, UserError
from edge_sft.federated import pki, sites
from edge_sft.federated.invite import Join
from edge_sft.federated.status import site_status
from edge_sft.federated.superlink import Node

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.utc)
BIG = (1 << 64) - 5  # Flower's ids are unsigned 64 bits; TOML's integers are not


class Gate:
    def __init__(self) -> None:
        self.registered: list[str] = []
        self.gone: list[int] = []
        self.away = False

    def register(self, public_key: str) -> int:
        self._here()
        self.registered.append(public_key)
        return BIG - len(self.registered)

    def unregister(self, node_id: int) -> None:
        self._here()
        self.gone.append(node_id)

    def _here(self) -> None:
        if self.away:
            raise NetworkError("the SuperLink", "does not answer")


def join(name: str) -> Join:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    text = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return Join(site=name, public_key=text, fingerprint=pki.key_fingerprint(text), edge_sft="0")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sites.toml"


def test_an_approved_site_is_remembered_with_its_node(path):
    gate, one = Gate(), join("plant-1")
    site = sites.approve(path, one, gate, NOW)

    assert gate.registered == [one.public_key]
    assert sites.read(path).approved == (site,)
    assert (site.name, site.node_id, site.since) == ("plant-1", str(BIG - 1), "2026-03-04T05:06:07Z")


def test_approving_twice_is_once(path):
    gate, one = Gate(), join("plant-1")

    assert sites.approve(path, one, gate, NOW) == sites.approve(path, one, gate, NOW)
    assert len(gate.registered) == 1


def test_a_revoked_site_is_out_and_its_key_never_comes_back(path):
    gate, one = Gate(), join("plant-1")
    site = sites.approve(path, one, gate, NOW)
    sites.revoke(path, "plant-1", gate, NOW)

    assert gate.gone == [int(site.node_id)]
    assert sites.read(path).approved == ()
    with pytest.raises(UserError, match="was revoked on 2026-03-04"):
        sites.approve(path, one, gate, NOW)
    again = sites.approve(path, join("plant-1"), gate, NOW)  # the same name with a new key
    assert sites.read(path).approved == (again,)


def test_names_and_keys_that_are_taken_are_refused(path):
    gate, one = Gate(), join("plant-1")
    sites.approve(path, one, gate, NOW)

    with pytest.raises(UserError, match="approved already, with another key"):
        sites.approve(path, join("plant-1"), gate, NOW)
    with pytest.raises(UserError, match="approved as plant-1"):
        sites.approve(path, one.model_copy(update={"site": "plant-2"}), gate, NOW)
    assert len(gate.registered) == 1


def test_an_unknown_site_cannot_be_revoked(path):
    sites.approve(path, join("plant-1"), Gate(), NOW)
    with pytest.raises(UserError, match=r"plant-9: is not approved \(approved: plant-1\)"):
        sites.revoke(path, "plant-9", Gate(), NOW)


def test_while_flower_is_away_nothing_changes(path):
    gate = Gate()
    sites.approve(path, join("plant-1"), gate, NOW)
    before = path.read_bytes()
    gate.away = True

    with pytest.raises(NetworkError):
        sites.revoke(path, "plant-1", gate, NOW)
    with pytest.raises(NetworkError):
        sites.approve(path, join("plant-2"), gate, NOW)
    assert path.read_bytes() == before


def test_a_name_that_stands_twice_is_refused(path):
    sites.approve(path, join("plant-1"), Gate(), NOW)
    row = path.read_text().split("\n\n", 1)[1]
    path.write_text(path.read_text() + "\n" + row)

    with pytest.raises(UserError, match="approved twice: plant-1"):
        sites.read(path)


@pytest.mark.parametrize(
    ("node", "state", "seen"),
    [
        (Node(BIG - 1, "online", "2026-01-01 00:00:00Z", "N/A"), "online", "2026-01-01 00:00:00Z"),
        (Node(BIG - 1, "offline", "x", "2026-01-02 00:00:00Z"), "offline", "2026-01-02 00:00:00Z"),
        (Node(BIG - 1, "registered", "N/A", "N/A"), "never seen", ""),
        (Node(BIG - 1, "unregistered", "N/A", "N/A"), "unknown to Flower: revoke it and have it join again", ""),
        (Node(7, "online", "x", "N/A"), "unknown to Flower: revoke it and have it join again", ""),
    ],
)
def test_how_a_site_is(path, node, state, seen):
    site = sites.approve(path, join("plant-1"), Gate(), NOW)

    told = site_status(site, {node.node_id: node})
    assert (told.state, told.seen) == (state, seen)
    assert site_status(site, None).state == "unknown"

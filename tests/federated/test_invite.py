"""The invite and the answer: read back as written, refused when changed, every mistake said."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_sft.errors import DataError, UserError
from edge_sft.federated import pki
from edge_sft.federated.invite import (
    Invite,
    Join,
    read_invite,
    read_join,
    split_address,
    write_invite,
    write_join,
)


@pytest.fixture(scope="module")
def invite() -> Invite:
    ca = pki.make_authority("test", datetime.now(timezone.utc)).certificate
    digest = pki.facts(ca).fingerprint
    return Invite(
        site="plant-1", address="h.example:8443", ca=ca.decode(), ca_sha256=digest, apps=("ab" * 32,), edge_sft="0.1.0"
    )


def public_key(curve: ec.EllipticCurve) -> str:
    key = ec.generate_private_key(curve).public_key()
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def test_an_invite_is_read_as_it_was_written(invite, tmp_path):
    write_invite(tmp_path / "plant-1.invite", invite)

    assert read_invite(tmp_path / "plant-1.invite") == invite


def test_an_invite_with_another_authority_is_refused(invite, tmp_path):
    other = pki.make_authority("test", datetime.now(timezone.utc)).certificate.decode()
    write_invite(tmp_path / "i", invite.model_copy(update={"ca": other}))

    with pytest.raises(DataError, match="was changed"):
        read_invite(tmp_path / "i")


def test_every_mistake_in_an_invite_is_listed(tmp_path):
    path = tmp_path / "i"
    path.write_text('version = 1\nsite = "Plant 1"\naddress = "h"\nca = ""\nca_sha256 = "x"\napps = []\nmore = 1\n')

    with pytest.raises(UserError) as refused:
        read_invite(path)
    for word in ("line 2", "1 to 32 of a-z", "HOST:PORT", "ca_sha256", "apps", "unknown key 'more'", "edge_sft"):
        assert word in str(refused.value)


def test_an_answer_is_read_as_it_was_written_and_refused_when_its_key_was_changed(tmp_path: Path):
    key = public_key(ec.SECP384R1())
    join = Join(site="plant-1", public_key=key, fingerprint=pki.key_fingerprint(key), edge_sft="0.1.0")
    write_join(tmp_path / "j", join)
    assert read_join(tmp_path / "j") == join

    write_join(tmp_path / "j", join.model_copy(update={"public_key": public_key(ec.SECP384R1())}))
    with pytest.raises(DataError, match="was changed"):
        read_join(tmp_path / "j")
    write_join(tmp_path / "j", join.model_copy(update={"public_key": public_key(ec.SECP256R1())}))
    with pytest.raises(UserError, match="P-384"):
        read_join(tmp_path / "j")


@pytest.mark.parametrize(
    ("text", "split"), [("a:1", ("a", 1)), ("[::1]:8443", ("::1", 8443)), ("10.0.0.1:443", ("10.0.0.1", 443))]
)
def test_addresses(text, split):
    assert split_address(text) == split


@pytest.mark.parametrize("text", ["a", "a:", ":1", "a:0", "a:65536", "::1:80", "a:b"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="address"):
        split_address(text)

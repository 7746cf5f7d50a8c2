"""The coordinator's certificates: what they say, what they permit, what is said when days or clocks are wrong."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edge_sft.errors import DeviceError, UserError
from edge_sft.federated import pki

NOW = datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def authority() -> pki.Pair:
    return pki.make_authority("test", NOW)


def _handshake(ca: bytes, server: pki.Pair, name: str, folder: Path) -> str:
    """Return "ok" or what the client says when it shakes hands with a server by a name."""
    (folder / "s.pem").write_bytes(server.certificate)
    (folder / "s.key").write_bytes(server.key)
    offered = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    offered.load_cert_chain(folder / "s.pem", folder / "s.key")
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(cadata=ca.decode())
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            offered.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        trusting.wrap_socket(ours, server_hostname=name).close()
        return "ok"
    except ssl.SSLError as error:
        return str(error)
    finally:
        ours.close()
        thread.join()


def test_a_site_shakes_hands_by_every_name_of_the_certificate_and_by_no_other(authority, tmp_path):
    server = pki.issue_server(authority, ["coordinator.plant.example", "10.1.2.3"], NOW)

    for name in ("coordinator.plant.example", "10.1.2.3", "localhost", "127.0.0.1"):
        assert _handshake(authority.certificate, server, name, tmp_path) == "ok"
    assert "mismatch" in _handshake(authority.certificate, server, "other.example", tmp_path)


def test_another_authority_of_the_same_name_is_not_trusted(authority, tmp_path):
    other = pki.make_authority("test", NOW)
    server = pki.issue_server(other, ["a.example"], NOW)

    assert "verify failed" in _handshake(authority.certificate, server, "a.example", tmp_path)


def test_the_authority_may_not_serve_and_the_server_may_not_sign(authority, tmp_path):
    server = pki.issue_server(authority, ["a.example"], NOW)
    below = pki.issue_server(server, ["b.example"], NOW)

    chained = pki.Pair(below.certificate + server.certificate, below.key)
    assert "verify failed" in _handshake(authority.certificate, chained, "b.example", tmp_path)


def test_what_a_certificate_says(authority):
    found = pki.facts(pki.issue_server(authority, ["a.example", "10.0.0.1"], NOW).certificate)

    assert found.names == ("a.example", "10.0.0.1", "localhost", "127.0.0.1")
    assert found.days_left(NOW) in (729, 730)
    assert found.begins < NOW - timedelta(hours=23)  # a site whose clock is behind may still join


@pytest.mark.parametrize(
    ("days", "says"),
    [(-800, "clock says"), (-20000, "clock: shows"), (731, "expired on"), (2000, "expired on")],
)
def test_wrong_days_are_said_in_words(authority, days, says):
    found = pki.facts(pki.issue_server(authority, ["a.example"], NOW).certificate)

    if days == -800:  # a certificate from the future
        found = pki.facts(pki.issue_server(authority, ["a.example"], NOW + timedelta(days=400)).certificate)
        days = 0
    with pytest.raises(DeviceError, match=says):
        pki.check("the certificate", found, NOW + timedelta(days=days), "Renew it.")


def test_renewal_is_asked_for_two_months_before(authority):
    found = pki.facts(pki.issue_server(authority, ["a.example"], NOW).certificate)

    assert pki.check("the certificate", found, NOW + timedelta(days=600), "Renew it.") == ""
    assert "ends in 29 days" in pki.check("the certificate", found, NOW + timedelta(days=700), "Renew it.")


def test_no_certificate_is_made_while_the_clock_is_wrong():
    with pytest.raises(DeviceError, match="clock: shows 1970"):
        pki.make_authority("test", datetime(1970, 1, 1, tzinfo=timezone.utc))


def test_a_server_certificate_never_outlives_its_authority(authority):
    late = NOW + timedelta(days=pki.AUTHORITY_DAYS - 100)

    assert pki.facts(pki.issue_server(authority, ["a"], late).certificate).days_left(late) < 100
    with pytest.raises(DeviceError, match="has expired"):
        pki.issue_server(authority, ["a"], NOW + timedelta(days=pki.AUTHORITY_DAYS + 1))


@pytest.mark.parametrize("name", ["", "a b", "ü.example", "https://a", "a/b", "-;{"])
def test_names_that_are_none_are_refused(authority, name):
    with pytest.raises(UserError, match="neither a host name nor"):
        pki.issue_server(authority, [name], NOW)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen: its fingerprints are not compared")
def test_a_keys_fingerprint_is_the_one_that_ssh_keygen_prints(tmp_path):
    made = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(tmp_path / "k")]
    subprocess.run(made, check=True)
    told = subprocess.run(["ssh-keygen", "-lf", str(tmp_path / "k.pub")], capture_output=True, text=True, check=True)

    assert pki.key_fingerprint((tmp_path / "k.pub").read_text()) == told.stdout.split()[1]


@pytest.mark.parametrize("text", ["", "ssh-ed25519 AAAA", "ecdsa-sha2-nistp384", "nonsense more"])
def test_what_is_no_key_is_refused(text):
    with pytest.raises(UserError, match="site's public key"):
        pki.key_fingerprint(text)

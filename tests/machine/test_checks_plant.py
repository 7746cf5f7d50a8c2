"""Checks of cameras, certificates and the broker."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_sft.machine.checks import certificates, system
from edge_sft.machine.checks.cameras import Video, cameras
from edge_sft.machine.finding import Finding

NOW = datetime(2027, 3, 1, tzinfo=timezone.utc)
Key = ec.EllipticCurvePrivateKey


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(subject: str, key: Key, issuer: str, signer: Key, days: int = 365, begins: int = -30) -> bytes:
    made = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=begins))
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=subject == issuer, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def private(key: Key, password: bytes | None = None) -> bytes:
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


CA_KEY, OTHER_KEY, KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
CA = certificate("plant CA", CA_KEY, "plant CA", CA_KEY, days=3650)
OTHER_CA = certificate("other CA", OTHER_KEY, "other CA", OTHER_KEY, days=3650)
OWN = certificate("line-3", KEY, "plant CA", CA_KEY)


def test_a_certificate_that_is_as_it_should_be() -> None:
    found = certificates.client("client.pem", OWN, private(KEY), CA, NOW)
    assert [finding.health for finding in found] == ["good"]
    assert "CN=line-3" in found[0].fact
    assert "365 days" in found[0].fact
    assert certificates.authority("ca.pem", CA + OTHER_CA, NOW).health == "good"


@pytest.mark.parametrize(
    ("pem", "key", "ca", "health", "word"),
    [
        (certificate("a", KEY, "plant CA", CA_KEY, days=-1), private(KEY), CA, "bad", "has expired on 2027-02-28"),
        (certificate("a", KEY, "plant CA", CA_KEY, begins=1), private(KEY), CA, "bad", "not valid before"),
        (certificate("a", KEY, "plant CA", CA_KEY, days=12), private(KEY), CA, "note", "12 days"),
        (OWN, private(CA_KEY), CA, "bad", "key of another certificate"),
        (OWN, private(KEY, b"secret"), CA, "bad", "locked with a password"),
        (OWN, b"-----BEGIN nothing", CA, "bad", "no private key"),
        (OWN, private(KEY), OTHER_CA, "note", "not signed by the authority"),
        (b"not a certificate", private(KEY), CA, "bad", "no certificate in PEM form"),
    ],
)
def test_what_can_be_wrong_with_it(pem: bytes, key: bytes, ca: bytes, health: str, word: str) -> None:
    found = [finding for finding in certificates.client("client.pem", pem, key, ca, NOW) if finding.health != "good"]
    assert len(found) == 1
    assert found[0].health == health
    assert word in found[0].fact
    assert found[0].remedy


def test_an_authority_that_has_expired_among_others() -> None:
    old = certificate("old CA", OTHER_KEY, "old CA", OTHER_KEY, days=-3)
    finding = certificates.authority("ca.pem", CA + old, NOW)
    assert finding.health == "bad"
    assert "CN=old CA" in finding.fact
    assert certificates.authority("ca.pem", b"", NOW).health == "bad"


USB, CSI = Video(0, "HD Pro Webcam C920", True), Video(1, "vi-output, imx219 9-0010", True)


def test_cameras() -> None:
    assert cameras([], (), "me", [], argus=True) == []
    assert cameras([USB], (0,), "me", ["video"], argus=True) == [
        Finding("good", "camera", "/dev/video0 HD Pro Webcam C920")
    ]
    missing = cameras([USB], (0, 2), "me", ["video"], argus=True)[0]
    assert missing.health == "bad"
    assert "/dev/video2 is not there" in missing.fact
    assert "/dev/video0" in missing.remedy


def test_a_camera_that_may_not_be_opened() -> None:
    shut = Video(0, "HD Pro Webcam C920", False)
    finding = cameras([shut], (0,), "operator", [], argus=True)[0]
    assert finding.health == "bad"
    assert "usermod -aG video operator" in finding.remedy
    assert "next login" in cameras([shut], (0,), "operator", ["video"], argus=True)[0].remedy


def test_a_csi_camera_needs_the_daemon() -> None:
    assert [finding.health for finding in cameras([CSI], (), "me", [], argus=False)] == ["good", "note"]
    assert [finding.health for finding in cameras([CSI], (), "me", [], argus=True)] == ["good"]


def test_the_broker() -> None:
    assert system.broker("10.0.0.1:1883", "").health == "good"
    assert "HOST:PORT" in system.broker("a:b", "address").fact
    assert "'mqtt' is not known" in system.broker("mqtt:1883", "name").fact
    assert "refused" in system.broker("10.0.0.1:1883", "Connection refused").fact
    agreed = system.broker("10.0.0.1:8883", "", encrypted=True)
    assert agreed == Finding("good", "broker", "10.0.0.1:8883 accepts encrypted connections, certificates agree")

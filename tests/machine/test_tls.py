"""The broker's certificate, against a real TLS server."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_sft.machine.finding import Finding
from edge_sft.machine.gathering import plant
from edge_sft.machine.gathering.place import Place


def write(folder: Path, name: str, signer: str = "", *, address: str = "127.0.0.1", days: int = 30) -> None:
    """Write NAME.pem and NAME.key, signed by SIGNER, or by itself as an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = signer or name
    now = datetime.now(timezone.utc)
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(secret)
    by = serialization.load_pem_private_key((folder / f"{issuer}.key").read_bytes(), None)
    assert isinstance(by, ec.EllipticCurvePrivateKey)
    usage = [index in (0, 5) for index in range(9)]  # to sign, and to sign certificates
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=not signer, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        .add_extension(x509.KeyUsage(*usage), critical=True)
        .sign(by, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(built.public_bytes(pem))


@contextlib.contextmanager
def server(folder: Path, name: str, clients: str = "") -> Iterator[str]:
    """Yield the address of a TLS server that keeps connections; ``clients`` is whose certificates it wants."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(folder / f"{clients}.pem")

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            plain, _ = listening.accept()
            with plain, context.wrap_socket(plain, server_side=True) as encrypted:
                encrypted.recv(1)  # until the other side ends it

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            thread.join(30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "ca")
    write(tmp_path, "other-ca")
    write(tmp_path, "broker", "ca")
    write(tmp_path, "line-3", "ca")
    return tmp_path


def found(folder: Path, address: str, *, ca: str = "ca", own: str = "") -> Finding:
    cert, key = (folder / f"{own}.pem", folder / f"{own}.key") if own else (None, None)
    return plant.of_broker(Place(folder, address, folder / f"{ca}.pem", cert, key))[0]


def test_certificates_that_agree(folder: Path) -> None:
    with server(folder, "broker") as address:
        assert found(folder, address).health == "good"
    with server(folder, "broker", clients="ca") as address:
        assert found(folder, address, own="line-3").health == "good"


def test_a_broker_of_another_authority(folder: Path) -> None:
    with server(folder, "broker") as address:
        finding = found(folder, address, ca="other-ca")
    assert finding.health == "bad"
    assert "ca_file is not the authority" in finding.remedy


def test_a_broker_whose_certificate_has_expired(folder: Path) -> None:
    write(folder, "old", "ca", days=-2)
    with server(folder, "old") as address:
        finding = found(folder, address)
    assert "expired" in finding.fact
    assert "Renew" in finding.remedy


def test_a_broker_under_another_name(folder: Path) -> None:
    write(folder, "elsewhere", "ca", address="10.9.8.7")
    with server(folder, "elsewhere") as address:
        finding = found(folder, address)
    assert finding.health == "bad"
    assert "as the broker's certificate names it" in finding.remedy


def test_a_broker_that_wants_a_certificate_of_ours(folder: Path) -> None:
    with server(folder, "broker", clients="ca") as address:
        finding = found(folder, address)
    assert finding.health == "bad"
    assert "cert_file" in finding.remedy


def test_a_broker_that_does_not_trust_ours(folder: Path) -> None:
    write(folder, "stranger", "other-ca")
    with server(folder, "broker", clients="ca") as address:
        finding = found(folder, address, own="stranger")
    assert finding.health == "bad"
    assert "cert_file" in finding.remedy


def test_a_port_that_is_not_encrypted(folder: Path) -> None:
    def answer(listening: socket.socket) -> None:
        plain, _ = listening.accept()
        with plain:
            plain.recv(64)
            plain.sendall(b"\x20\x02\x00\x05")  # an MQTT broker's refusal

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        finding = found(folder, f"127.0.0.1:{listening.getsockname()[1]}")
        thread.join(30)
    assert finding.health == "bad"
    assert "TLS" in finding.fact

"""The coordinator's own certificate authority and its server certificate; what is wrong with them, in words."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final

from edge_sft.errors import DeviceError, UserError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

AUTHORITY_DAYS: Final = 3650
SERVER_DAYS: Final = 730
RENEW_DAYS: Final = 60  # from here on `federate up` and `federate status` ask for renewal
_BACK: Final = timedelta(days=1)  # a site's clock may be behind this machine's
_SANE: Final = datetime(2025, 1, 1, tzinfo=timezone.utc)  # no clock that works shows an earlier day
LOOPBACK: Final = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Facts:
    """What a certificate says: its names (DNS and addresses), first and last moment (UTC), SHA-256 of its DER."""

    names: tuple[str, ...]
    begins: datetime
    ends: datetime
    fingerprint: str

    def days_left(self, now: datetime) -> int:
        """Return whole days until it ends; negative after."""
        return (self.ends - now).days


def make_authority(name: str, now: datetime) -> Pair:
    """Make a private authority that may sign end certificates only, for ten years.

    Raises:
        DeviceError: This machine's clock is wrong.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    check_clock(now)
    key = _new_key()
    subject = _subject(f"edge-sft federation {name}")
    public = key.public_key()
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # signs certificates, CRLs
    made = (
        _builder(subject, subject, now, AUTHORITY_DAYS, public)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(made, key)


def issue_server(authority: Pair, names: Sequence[str], now: datetime) -> Pair:
    """Issue the server's certificate for names and addresses, loopback always among them, for two years.

    Args:
        authority: Who signs.
        names: DNS names and IP addresses by which sites reach the coordinator.
        now: UTC.

    Raises:
        DeviceError: The clock is wrong, or the authority has expired.
        UserError: A name that is none.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509.oid import ExtendedKeyUsageOID

    check_clock(now)
    signer = x509.load_pem_x509_certificate(authority.certificate)
    left = facts(authority.certificate).ends - now
    if left < timedelta(days=1):
        raise DeviceError(
            "the federation's authority",
            f"has expired or does within a day ({signer.not_valid_after_utc:%Y-%m-%d})",
            "Make a new one in a new folder (edge-sft federate init --dir NEW) and invite every site again.",
        )
    key = _new_key()
    wanted = list(dict.fromkeys([*names, *LOOPBACK]))
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    signing = load_pem_private_key(authority.key, None)
    made = (
        _builder(
            _subject("edge-sft federation server"), signer.subject, now, min(SERVER_DAYS, left.days), key.public_key()
        )
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in wanted]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)  # type: ignore[arg-type]
        .sign(signing, hashes.SHA256())  # type: ignore[arg-type]
    )
    return _pair(made, key)


def facts(certificate: bytes) -> Facts:
    """Read a PEM certificate. Raises UserError when it is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        read = x509.load_pem_x509_certificate(certificate)
    except ValueError as error:
        raise UserError("the certificate", f"is not a PEM certificate ({error})", "Ask for a new invite.") from error
    names: tuple[str, ...] = ()
    for extension in read.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names = tuple(str(one.value) for one in extension.value)
    digest = hashlib.sha256(read.public_bytes(Encoding.DER)).hexdigest()
    return Facts(names, read.not_valid_before_utc, read.not_valid_after_utc, digest)


def check(what: str, found: Facts, now: datetime, renew: str) -> str:
    """Return a warning to show about a certificate's days, or nothing.

    Args:
        what: Its name in messages.
        found: What it says.
        now: UTC, by this machine's clock.
        renew: What renews it, as a sentence.

    Raises:
        DeviceError: It has not begun (then a clock is wrong) or has ended.
    """
    check_clock(now)
    if now < found.begins:
        raise DeviceError(
            what,
            f"is valid from {found.begins:%Y-%m-%d %H:%M} UTC, but this machine's clock says {now:%Y-%m-%d %H:%M}",
            "Set the clock (timedatectl status) and try again.",
        )
    if now > found.ends:
        raise DeviceError(what, f"expired on {found.ends:%Y-%m-%d} (the clock says {now:%Y-%m-%d})", renew)
    left = found.days_left(now)
    return f"{what} ends in {left} days, on {found.ends:%Y-%m-%d}. {renew}" if left < RENEW_DAYS else ""


def check_clock(now: datetime) -> None:
    """Refuse a clock that shows a day before this program was written. Raises DeviceError."""
    if now < _SANE:
        raise DeviceError(
            "this machine's clock",
            f"shows {now:%Y-%m-%d %H:%M} UTC",
            "Certificates and node authentication need the right time: set it (timedatectl set-ntp true).",
        )


def key_fingerprint(public_key: str) -> str:
    """Return the fingerprint of an SSH public key as `ssh-keygen -l` prints it (``SHA256:…``).

    Raises:
        UserError: Not an elliptic-curve public key in SSH's form (what Flower takes).
    """
    import base64
    import binascii

    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        key = load_ssh_public_key(public_key.encode())
        blob = base64.b64decode(public_key.split()[1], validate=True)
    except (ValueError, IndexError, binascii.Error, UnsupportedAlgorithm) as error:
        raise UserError("the site's public key", "cannot be read", "Ask the site for its .join file again.") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise UserError("the site's public key", "is not an ECDSA P-384 key", "edge-sft site join makes one.")
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def spoken(fingerprint: str) -> str:
    """Return hex digits in groups of four, to be compared over the telephone."""
    return " ".join(fingerprint[start : start + 4] for start in range(0, len(fingerprint), 4))


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _subject(name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _general(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    labels = name.rstrip(".").split(".")
    if not all(label and label.replace("-", "").isalnum() and label.isascii() and len(label) < 64 for label in labels):
        raise UserError(f"'{name}'", "is neither a host name nor an IP address", "Give what sites type to reach it.")
    return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, now: datetime, days: int, public: object
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACK)
        .not_valid_after(now + timedelta(days=days))
    )


def _pair(certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> Pair:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair(certificate.public_bytes(Encoding.PEM), pem)

"""Certificates for the broker: dates, whether the key fits, who signed. Needs `cryptography`, imported on use."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final

from edge_sft.machine.finding import Finding

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

SOON: Final = timedelta(days=30)


def authority(name: str, pem: bytes, now: datetime) -> Finding:
    """Judge the file of authorities that the broker's certificate must come from."""
    found = _read(name, pem)
    if isinstance(found, Finding):
        return found
    judged = [_dates(name, one, now, "Ask whoever runs the broker for the new authority.") for one in found]
    worst = [item for item in judged if item.health != "good"]
    return worst[0] if worst else judged[0]


def client(name: str, pem: bytes, key: bytes | None, authorities: bytes | None, now: datetime) -> list[Finding]:
    """Judge this device's own certificate: its dates, its key, who signed it."""
    found = _read(name, pem)
    if isinstance(found, Finding):
        return [found]
    own = found[0]
    answers = [_dates(name, own, now, "Have a new one signed; the agent reads it when it starts.")]
    if key is not None:
        problem = _key_problem(own, key)
        if problem:
            answers.append(Finding("bad", "certificate", f"{name}: {problem}", "Name the key that it was made with."))
    signers = _read("", authorities) if authorities else []
    if not isinstance(signers, Finding) and signers and not any(_signed(own, one) for one in [*found[1:], *signers]):
        fact = f"{name} was not signed by the authority in ca_file (it says {own.issuer.rfc4514_string()})"
        answers.append(Finding("note", "certificate", fact, "Right only if the broker trusts another one for devices."))
    return answers


def _read(name: str, pem: bytes) -> list[Certificate] | Finding:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        remedy = "It must hold -----BEGIN CERTIFICATE-----; openssl x509 -inform der turns the other form into it."
        return Finding("bad", "certificate", f"{name} holds no certificate in PEM form", remedy)


def _dates(name: str, one: Certificate, now: datetime, remedy: str) -> Finding:
    start, end = _span(one)
    subject = one.subject.rfc4514_string() or "no name"
    if now < start:
        fact = f"{name} ({subject}) is not valid before {start:%Y-%m-%d %H:%M} UTC"
        return Finding("bad", "certificate", fact, "Is this machine's clock right?")
    if now > end:
        return Finding("bad", "certificate", f"{name} ({subject}) has expired on {end:%Y-%m-%d}", remedy)
    days = (end - now).days
    fact = f"{name} ({subject}) is valid until {end:%Y-%m-%d}, {days} days"
    return Finding("note" if end - now < SOON else "good", "certificate", fact, remedy if end - now < SOON else "")


def _span(one: Certificate) -> tuple[datetime, datetime]:
    """Return from when and until when; cryptography 42 brought the names that know their time zone."""
    return one.not_valid_before_utc.astimezone(timezone.utc), one.not_valid_after_utc.astimezone(timezone.utc)


def _key_problem(own: Certificate, key: bytes) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        return "its key is locked with a password, which the agent cannot type"
    except ValueError:
        return "key_file holds no private key in PEM form"
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    same = private.public_key().public_bytes(*form) == own.public_key().public_bytes(*form)
    return "" if same else "key_file is the key of another certificate"


def _signed(own: Certificate, by: Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        own.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True

"""What went wrong with a broker, in one line a plant engineer can act on."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from edge_sft.errors import NetworkError

if TYPE_CHECKING:
    from edge_sft.runtime.mqtt_client import MqttSettings

EXPIRED, NOT_YET_VALID = 10, 9  # X509_V_ERR_*
UNKNOWN_ISSUER = {2, 18, 19, 20, 21}
BAD_LOGIN, BAD_VERSION = {4, 5, 0x86, 0x87}, {1, 0x84}  # Mosquitto answers 5 to a wrong password, others 4


def explain(error: BaseException, settings: MqttSettings, *, before_answer: bool = False) -> NetworkError:
    """Map any error of connecting (``before_answer``) or of a running connection to a NetworkError."""
    if isinstance(error, NetworkError):
        return error
    thing = f"broker {settings.host}:{settings.port}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate(error, thing, settings)
    if isinstance(error, (ConnectionResetError, BrokenPipeError, EOFError, ssl.SSLEOFError)):
        return dropped(settings, before_answer=before_answer)
    if isinstance(error, ssl.SSLError):
        return _tls(error, thing, settings)
    if isinstance(error, socket.gaierror):
        return NetworkError(
            f"broker {settings.host}", "the name cannot be resolved", "Check mqtt.host and this machine's DNS."
        )
    if isinstance(error, ConnectionRefusedError):
        return NetworkError(
            thing, "no broker answers there (connection refused)", "Start it, or check mqtt.host and mqtt.port."
        )
    if isinstance(error, (TimeoutError, socket.timeout)):
        return NetworkError(thing, "no answer in time", "Check the cable, the firewall and mqtt.host.")
    if isinstance(error, FileNotFoundError):
        return NetworkError(str(error.filename), "does not exist", "Check the paths under [mqtt].")
    if isinstance(error, PermissionError) and error.filename:
        return NetworkError(str(error.filename), "may not be read by this user", "Check the file's rights.")
    if isinstance(error, OSError):
        return NetworkError(thing, f"cannot be reached ({error.strerror or error})", "Check the network.")
    return NetworkError(thing, f"the connection failed ({type(error).__name__}: {error})", "It will be tried again.")


def refused(code: int, name: str, settings: MqttSettings) -> NetworkError:
    """Map a CONNACK reason code (MQTT 3.1.1 or 5)."""
    thing = f"broker {settings.host}:{settings.port}"
    who = f"user '{settings.username}'" if settings.username else "a client without user name"
    if code in BAD_LOGIN:
        remedy = "Check mqtt.username and the content of mqtt.password_file, and the broker's list of users."
        return NetworkError(thing, f"refuses {who}: wrong user name or password", remedy)
    if code in BAD_VERSION:
        return NetworkError(
            thing, f"does not speak MQTT {settings.version}", 'Set mqtt.version to "3.1.1" (or "5") and try again.'
        )
    return NetworkError(thing, f"refused the connection ({name})", "See the broker's log.")


def not_readable(topics: Sequence[str], settings: MqttSettings) -> NetworkError:
    """Say that the broker does not let this client subscribe (SUBACK with a failure)."""
    who = f"user '{settings.username}'" if settings.username else "a client without user name"
    fact = f"does not let {who} subscribe to {', '.join(topics)}"
    return NetworkError(f"broker {settings.host}:{settings.port}", fact, "Check the broker's access list (ACL).")


def dropped(settings: MqttSettings, *, before_answer: bool = False) -> NetworkError:
    """Say that the broker closed the connection; before its answer it is mostly a TLS mismatch."""
    thing = f"broker {settings.host}:{settings.port}"
    if not before_answer:
        return NetworkError(thing, "the connection was lost", "It is tried again; nothing that was stored is lost.")
    if not settings.tls:
        remedy = "If that port expects TLS, give mqtt.ca_file; else see the broker's log."
    elif settings.cert_file is None:
        remedy = "It may not speak TLS on that port, or require a client certificate (mqtt.cert_file, key_file)."
    else:
        remedy = "It may not trust the client certificate; see the broker's log."
    return NetworkError(thing, "closed the connection before answering", remedy)


def silent(settings: MqttSettings) -> NetworkError:
    """Say that something accepted the connection but never answered as a broker does."""
    remedy = "Check that mqtt.port is a broker's"
    remedy += "" if settings.tls else ", and whether it expects TLS (mqtt.ca_file)"
    remedy += "; it may speak only MQTT 3.1.1 (mqtt.version)." if settings.version == "5" else "."
    return NetworkError(f"broker {settings.host}:{settings.port}", "accepts connections but does not answer", remedy)


def _certificate(error: ssl.SSLCertVerificationError, thing: str, settings: MqttSettings) -> NetworkError:
    now = datetime.now(timezone.utc)
    if error.verify_code in (EXPIRED, NOT_YET_VALID):
        fact = "its certificate has expired" if error.verify_code == EXPIRED else "its certificate is not valid yet"
        remedy = f"Renew it, or set this machine's clock, which says {now:%Y-%m-%d %H:%M} UTC."
        return NetworkError(thing, fact, remedy)
    if error.verify_code in UNKNOWN_ISSUER:
        return NetworkError(
            thing, "its certificate was not issued by the given CA", f"Check mqtt.ca_file ({settings.ca_file})."
        )
    return NetworkError(thing, f"its certificate does not fit ({error.verify_message})", "Check mqtt.host and the CA.")


def _tls(error: ssl.SSLError, thing: str, settings: MqttSettings) -> NetworkError:
    reason = (getattr(error, "reason", None) or str(error)).upper()
    if "WRONG_VERSION" in reason or "RECORD_LAYER" in reason:
        return NetworkError(thing, "does not speak TLS on that port", "Use the TLS port (mostly 8883), or no ca_file.")
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return NetworkError(thing, "requires a client certificate", "Give mqtt.cert_file and mqtt.key_file.")
    if "UNKNOWN_CA" in reason or "BAD_CERTIFICATE" in reason or "CERTIFICATE_EXPIRED" in reason:
        remedy = f"Check mqtt.cert_file ({settings.cert_file}) against the broker's CA and dates."
        return NetworkError(thing, "does not accept this device's certificate", remedy)
    if any(part in reason for part in ("KEY_VALUES_MISMATCH", "PEM", "NO_START_LINE", "NO_CERTIFICATE_OR_CRL")):
        files = ", ".join(str(f) for f in (settings.ca_file, settings.cert_file, settings.key_file) if f)
        return NetworkError(files, f"cannot be used for TLS ({error})", "They must be PEM files; the key must fit.")
    return NetworkError(thing, f"TLS failed ({error})", "Check the certificates and the broker's log.")


def days_left(not_after: str, now: datetime) -> float:
    """Days until a certificate's ``notAfter`` as the ssl module prints it."""
    return (ssl.cert_time_to_seconds(not_after) - now.timestamp()) / 86400.0


def own_certificate_days_left(settings: MqttSettings, now: datetime) -> float | None:
    """Days until this device's own certificate expires; None without one or when it cannot be read."""
    if settings.cert_file is None:
        return None
    from cryptography import x509

    try:
        certificate: Any = x509.load_pem_x509_certificate(settings.cert_file.read_bytes())
    except (OSError, ValueError):
        return None
    return float((certificate.not_valid_after_utc - now).total_seconds()) / 86400.0

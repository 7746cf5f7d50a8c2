"""How a broker is reached, and the paho client made from that for one connection. paho is imported on use."""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from edge_sft.runtime.bulk_client import BulkClient

Version = Literal["3.1.1", "5"]


@dataclass(frozen=True)
class MqttSettings:
    """How to reach a broker. TLS is on when ``ca_file`` is given. Files are read again at every connection."""

    host: str = "127.0.0.1"
    port: int = 1883
    version: Version = "3.1.1"
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    keepalive_s: int = 15
    connect_timeout_s: float = 5.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.ca_file is not None


@dataclass(frozen=True)
class Will:
    """What the broker publishes (QoS 1) when this client is lost without a farewell."""

    topic: str
    payload: bytes
    retain: bool = True


class TrackingContext(ssl.SSLContext):
    """Remembers its socket and closes it on `release`: paho leaves one open whenever a handshake fails."""

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        """Do as SSLContext does, and remember the socket."""
        self._last = super().wrap_socket(*args, **options)
        return self._last

    def release(self) -> None:
        """Close the socket of the connection that is over."""
        last: ssl.SSLSocket | None = getattr(self, "_last", None)
        if last is not None:
            with contextlib.suppress(OSError):
                last.close()


def build_client(
    settings: MqttSettings, client_id: str, *, persistent: bool, manual: bool
) -> tuple[BulkClient, TrackingContext | None]:
    """Make a client for one connection; passwords and certificates are read now.

    Args:
        settings: Where and how.
        client_id: Unique per broker.
        persistent: Whether the broker keeps the session.
        manual: Whether received messages are acknowledged by hand.

    Raises:
        OSError: A file cannot be read (ssl.SSLError: it is not what it should be).
    """
    from paho.mqtt.client import MQTTv5, MQTTv311
    from paho.mqtt.enums import CallbackAPIVersion

    from edge_sft.runtime.bulk_client import BulkClient

    five = settings.version == "5"
    client = BulkClient(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        clean_session=None if five else not persistent,
        protocol=MQTTv5 if five else MQTTv311,
        reconnect_on_failure=False,
        manual_ack=manual,
    )
    client.connect_timeout = settings.connect_timeout_s
    # With a write hook paho never writes from the publishing thread, only from `loop` (two writers would
    # interleave packets); the hook itself has nothing to do, `loop` is woken by paho's socket pair.
    client.on_socket_register_write = lambda *_: None
    if settings.username is not None:
        client.username_pw_set(settings.username, _password(settings))
    context = _tls_context(settings) if settings.tls else None
    if context is not None:
        client.tls_set_context(context)
    return client, context


def connect_options(settings: MqttSettings, persistent: bool) -> dict[str, Any]:
    """Return what MQTT 5 wants said when connecting; nothing for 3.1.1."""
    if settings.version != "5":
        return {}
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.ReceiveMaximum = 1000
    if persistent:
        properties.SessionExpiryInterval = 0xFFFFFFFF
    return {"clean_start": not persistent, "properties": properties}


def _password(settings: MqttSettings) -> str | None:
    if settings.password_file is None:
        return None
    return settings.password_file.read_text(encoding="utf-8").rstrip("\r\n")


def _tls_context(settings: MqttSettings) -> TrackingContext:
    context = TrackingContext(ssl.PROTOCOL_TLS_CLIENT)  # checks names and certificates
    context.load_verify_locations(str(settings.ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.cert_file is not None:
        key = str(settings.key_file) if settings.key_file else None
        context.load_cert_chain(str(settings.cert_file), key)
    return context

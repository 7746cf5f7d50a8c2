"""One connection to a broker that mends itself; it keeps nothing, so that the journal alone says what is owed.

Every attempt to connect makes a fresh paho client: paho's own queue, its retry without jitter and its loop thread
(which is known to die silently after outages) are not used, and certificates and passwords are read anew each time.
"""

from __future__ import annotations

import contextlib
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edge_sft.errors import NetworkError
from edge_sft.runtime import link_errors
from edge_sft.runtime.delivery import Delivery
from edge_sft.runtime.mqtt_client import MqttSettings, TrackingContext, Will, build_client, connect_options

if TYPE_CHECKING:
    from paho.mqtt.client import Client

    from edge_sft.runtime.bulk_client import BulkClient

__all__ = ["MqttLink", "MqttSettings", "Will"]
log = logging.getLogger(__name__)
Receiver = Callable[[str, bytes], None]
Done = Callable[[bool], None]
LOOP_S = 0.25
GATHER_S = 0.002  # where messages come by the thousand, a pause a read costs less than a wake a message
WARN_DAYS = 30.0


class MqttLink:
    """A supervised connection. Thread-safe; `start` it, `stop` it, or use it as a context manager.

    Args:
        settings: Where and how.
        client_id: Unique per broker; two clients of one id throw each other out.
        will: Published by the broker when this client is lost.
        persistent: Keep the session (queued messages, subscriptions) on the broker while away.
        deliver: Receives every message and must call ``accept`` on it once it is safe; for the ledger.
        window: Most QoS 1 messages unacknowledged at a time.
        on_event: Told (kind, sentence) once per change: ``mqtt_connected``, ``mqtt_lost``,
            ``mqtt_subscription_refused``, ``certificate_expires``.
        rng: Source of the jitter.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        client_id: str,
        will: Will | None = None,
        persistent: bool = False,
        deliver: Callable[[Delivery], None] | None = None,
        window: int = 500,
        on_event: Callable[[str, str], None] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self.client_id = client_id
        self._window = self._allowed = window
        self._will, self._persistent, self._deliver = will, persistent, deliver
        self._on_event = on_event
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not secrecy
        self._client: BulkClient | None = None
        self._subscriptions: dict[str, tuple[Receiver | None, int]] = {}
        self._granted: dict[str, bool] = {}  # by topic, what this connection's broker answered
        self._answered = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._done: dict[int, Done] = {}
        self._early: dict[int, bool] = {}
        self._publishing = threading.Lock()
        self._online = threading.Event()
        self._stopping = threading.Event()
        self._failure: NetworkError | None = None
        self._refusals: list[NetworkError] = []
        self._session = 0
        self._failures = 0
        self._thread: threading.Thread | None = None
        self._tls: TrackingContext | None = None

    # --- life ------------------------------------------------------------------------------------------------

    def start(self) -> MqttLink:
        """Begin connecting in the background; never raises for the broker's sake."""
        self._stopping.clear()
        self._ensure_thread()
        return self

    def stop(self, timeout_s: float = 5.0) -> None:
        """Say goodbye (the will is not published) and end."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def __enter__(self) -> MqttLink:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted this client and the connection stands."""
        if self._thread is not None:
            self._ensure_thread()  # whoever asks also notices a dead thread
        return self._online.is_set()

    @property
    def last_error(self) -> NetworkError | None:
        """Why there is no connection, or None while there is one (or none was tried yet)."""
        return self._failure

    @property
    def session(self) -> int:
        """Counts connections; whatever was published under an older number may be lost."""
        return self._session

    @property
    def window(self) -> int:
        """Most unanswered messages that this connection allows."""
        return self._allowed

    @property
    def subscription_error(self) -> NetworkError | None:
        """What the broker does not let this client read, or None."""
        refused = [topic for topic, granted in list(self._granted.items()) if not granted]
        return link_errors.not_readable(refused, self.settings) if refused else None

    def wait_connected(self, timeout_s: float) -> None:
        """Wait until the broker has accepted this client and answered its subscriptions.

        Raises:
            NetworkError: There is no connection or no answer in time, or the broker refuses a subscription.
        """
        ends_at = time.monotonic() + timeout_s
        if not self._online.wait(timeout_s):
            raise self._failure or link_errors.silent(self.settings)
        with self._answered:
            if not self._answered.wait_for(self._all_answered, max(ends_at - time.monotonic(), 0.0)):
                raise self._failure or link_errors.silent(self.settings)
        if (refused := self.subscription_error) is not None:
            raise refused

    def reset(self) -> None:
        """Drop the connection and make a new one (it is stuck)."""
        client = self._client
        sock: Any = client.socket() if client is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(2)

    # --- messages --------------------------------------------------------------------------------------------

    def publish(
        self, topic: str, payload: bytes | str, qos: int = 1, retain: bool = False, *, done: Done | None = None
    ) -> bool:
        """Send now, or not at all: False without a connection.

        ``done(accepted)`` is called on the link's thread when the broker answered (QoS 1); it must not block. It is
        never called when the connection is lost before: watch `session`.
        """
        self._ensure_thread()
        client = self._client
        if client is None or not self._online.is_set():
            return False
        with self._publishing:
            try:
                info = client.publish(topic, payload, qos, retain)
            except (ValueError, RuntimeError, OSError) as error:
                log.error("mqtt: could not publish to %s: %s", topic, error)
                return False
            if info.rc != 0:
                return False
            self._expect(info.mid, done or _ignore)
        return True

    def subscribe(self, topic: str, callback: Receiver, qos: int = 1) -> None:
        """Have ``callback(topic, payload)`` called on the link's thread; renewed at every connection."""
        self._subscribe(topic, callback, qos)

    def subscribe_delivery(self, topic: str, qos: int = 1) -> None:
        """Have matching messages handed to ``deliver``; renewed at every connection."""
        self._subscribe(topic, None, qos)

    def on_connected(self, listener: Callable[[], None]) -> None:
        """Have a listener called on the link's thread after every connection; it may publish, not block."""
        self._listeners.append(listener)

    def _subscribe(self, topic: str, callback: Receiver | None, qos: int) -> None:
        with self._answered:
            self._subscriptions[topic] = (callback, qos)
            self._granted.pop(topic, None)
        client = self._client
        if client is not None and self._online.is_set():
            self._ask(client, topic, qos)

    def _ask(self, client: Client, topic: str, qos: int) -> None:
        # not under `_publishing`: a refusal that came early is told at once, and who is told may publish
        _, mid = client.subscribe(topic, qos)
        if mid is not None:
            self._expect(mid, partial(self._answer, topic))

    def _answer(self, topic: str, granted: bool) -> None:
        """Note a broker's answer to a subscription; one that is refused would otherwise only look like silence."""
        if not granted:
            refusal = str(link_errors.not_readable([topic], self.settings))
            self._tell("mqtt_subscription_refused", refusal, logging.WARNING)
        with self._answered:
            self._granted[topic] = granted
            self._answered.notify_all()

    def _all_answered(self) -> bool:
        return self._granted.keys() >= self._subscriptions.keys()

    # --- the supervisor --------------------------------------------------------------------------------------

    def _ensure_thread(self) -> None:
        if self._stopping.is_set() or (self._thread is not None and self._thread.is_alive()):
            return
        if self._thread is not None:
            log.error("mqtt: the connection's thread had died; it is started again")
        self._online.clear()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            failure = self._live_guarded()
            self._online.clear()
            self._client = None
            if not self._stopping.is_set():
                self._note(failure)
                self._stopping.wait(self._next_wait())

    def _live_guarded(self) -> NetworkError:
        try:
            return self._live_once()
        except Exception as error:  # noqa: BLE001 - whatever breaks a connection is mapped and tried again
            return link_errors.explain(error, self.settings)
        finally:
            if self._tls is not None:
                self._tls.release()

    def _live_once(self) -> NetworkError:
        """Connect and serve one connection until it ends; return why it ended."""
        self._refusals.clear()
        client = self._new_client()
        with self._publishing:
            self._done.clear()
            self._early.clear()
        with self._answered:
            self._granted.clear()
        try:
            client.connect(
                self.settings.host,
                self.settings.port,
                self.settings.keepalive_s,
                **connect_options(self.settings, self._persistent),
            )
        except OSError as error:
            return link_errors.explain(error, self.settings, before_answer=True)
        self._client = client
        began = time.monotonic()
        while not self._stopping.is_set():
            rc = client.loop(LOOP_S)
            if self._deliver is not None:
                time.sleep(GATHER_S)
            if self._refusals:
                return self._refusals[0]
            if rc != 0:
                return link_errors.dropped(self.settings, before_answer=not self._online.is_set())
            if not self._online.is_set() and time.monotonic() - began > self.settings.connect_timeout_s:
                return link_errors.silent(self.settings)
        self._farewell(client)
        return link_errors.dropped(self.settings)

    def _farewell(self, client: BulkClient) -> None:
        """Send what is queued and hear the answers, then DISCONNECT.

        Closing a socket with unread answers resets it; the broker may then miss the DISCONNECT and publish the will.
        """
        deadline = time.monotonic() + 1.0
        while (client.want_write() or self._done) and time.monotonic() < deadline and client.loop(0.05) == 0:
            pass
        client.disconnect()
        while client.want_write() and time.monotonic() < deadline + 0.5 and client.loop(0.05) == 0:
            pass

    def _new_client(self) -> BulkClient:
        made = build_client(
            self.settings, self.client_id, persistent=self._persistent, manual=self._deliver is not None
        )
        client, self._tls = made
        client.max_inflight_messages_set(self._window + 100)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, 1, self._will.retain)
        client.on_connect, client.on_message = self._connack, self._received
        client.on_publish, client.on_subscribe = self._puback, self._suback
        if self._deliver is not None:
            client.deliver_to(self._deliver)
        return client

    def _next_wait(self) -> float:
        """Exponential backoff with full jitter: a plant's devices must not all come back at once."""
        ceiling = min(self.settings.longest_wait_s, self.settings.first_wait_s * 2.0 ** min(self._failures, 20))
        self._failures += 1
        return self._rng.uniform(0.0, ceiling)

    # --- paho's callbacks, all on the link's thread ----------------------------------------------------------

    def _connack(self, client: Client, _data: object, _flags: object, code: Any, properties: Any) -> None:
        if code.is_failure:
            self._refusals.append(link_errors.refused(code.value, str(code), self.settings))
            return
        # MQTT 5: a broker closes the connection on more unanswered messages than it allows (Mosquitto: 20); two
        # are left for state and events.
        allowed = getattr(properties, "ReceiveMaximum", None) if properties is not None else None
        self._allowed = min(self._window, max(int(allowed) - 2, 1)) if allowed else self._window
        for topic, (_, qos) in list(self._subscriptions.items()):
            self._ask(client, topic, qos)
        self._session += 1
        self._failures = 0
        self._online.set()
        self._note(None)
        self._warn_of_expiry(client)
        for listener in self._listeners:
            _guarded("a listener after connecting", listener)

    def _puback(self, _client: Client, _data: object, mid: int, code: Any, _properties: Any) -> None:
        self._settle(mid, not code.is_failure)

    def _suback(self, _client: Client, _data: object, mid: int, codes: Any, _properties: Any) -> None:
        self._settle(mid, not any(code.is_failure for code in codes))

    def _expect(self, mid: int, done: Done) -> None:
        """Have ``done`` called with the answer to a message just sent."""
        self._done[mid] = done
        if mid in self._early:
            self._settle(mid, self._early[mid])

    def _settle(self, mid: int, accepted: bool) -> None:
        # The answer may overtake `_expect` storing its callback; whoever comes second finds the other's note.
        # No lock here: paho holds its own while calling, and `publish` takes that one under ours.
        self._early[mid] = accepted
        done = self._done.pop(mid, None)
        if done is not None:
            self._early.pop(mid, None)
            done(accepted)

    def _received(self, _client: Client, _data: object, message: Any) -> None:
        from paho.mqtt.client import topic_matches_sub

        for topic, (callback, _) in list(self._subscriptions.items()):
            if callback is not None and topic_matches_sub(topic, message.topic):
                _guarded(f"a message on {message.topic}", partial(callback, message.topic, message.payload))

    # --- telling people --------------------------------------------------------------------------------------

    def _note(self, failure: NetworkError | None) -> None:
        """Log a change of state, and only a change."""
        before, self._failure = self._failure, failure
        if failure is None:
            self._tell("mqtt_connected", f"connected to broker {self.settings.host}:{self.settings.port}", logging.INFO)
        elif before is None or str(before) != str(failure):
            self._tell("mqtt_lost", str(failure), logging.WARNING)

    def _warn_of_expiry(self, client: Client) -> None:
        now = datetime.now(timezone.utc)
        sock: Any = client.socket()
        peer: Any = sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
        ends = {
            "the broker's certificate": link_errors.days_left(peer["notAfter"], now) if peer else None,
            "this device's certificate": link_errors.own_certificate_days_left(self.settings, now),
        }
        for whose, days in ends.items():
            if days is not None and days < WARN_DAYS:
                self._tell("certificate_expires", f"{whose} expires in {days:.0f} days", logging.WARNING)

    def _tell(self, kind: str, sentence: str, level: int) -> None:
        log.log(level, sentence)
        if self._on_event is not None:
            self._on_event(kind, sentence)


def _ignore(_accepted: bool) -> None:
    """Stand in where nobody asked for the broker's answer."""


def _guarded(what: str, call: Callable[[], None]) -> None:
    """Keep a failing listener from taking the connection down."""
    try:
        call()
    except Exception:
        log.exception("mqtt: handling %s failed", what)

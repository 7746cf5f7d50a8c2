"""From the journal to the broker: live entries first and at once, what was missed behind them at a bounded rate.

Two cursors over the journal's row ids share one window of unanswered messages:

- *live*: what was stored since this connection began, in order, at once.
- *backfill*: what was stored before that and is still unacknowledged (an outage, a restart, a lost answer), in
  order, marked ``backfill``, at most ``backfill_per_s`` and half of the window.

Each of the two keeps its stream's order; between them a receiver orders by ``seq`` and drops duplicates by
(stream, epoch, seq). An entry leaves the journal on the broker's PUBACK (``ack="broker"``) or on the ledger's
acknowledgement (``ack="ledger"``); until then it is published again after every reconnect, and in ledger mode also
after ``ack_timeout_s``, doubling while no acknowledgement comes.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Literal, Protocol

from edge_sft.prediction import Envelope
from edge_sft.runtime.journal import Journal
from edge_sft.runtime.topics import Topics

log = logging.getLogger(__name__)
SLOWEST_RESEND_S = 300.0
LIVE_LAG_S = 10.0  # live entries that wait longer are no longer live: they become backfill


class Link(Protocol):
    """What the publisher needs of a connection; `edge_sft.runtime.mqtt.MqttLink` is one."""

    @property
    def connected(self) -> bool:
        """Whether messages can be sent."""
        ...

    @property
    def session(self) -> int:
        """Counts connections."""
        ...

    @property
    def window(self) -> int:
        """Most unanswered messages that the broker allows."""
        ...

    def publish(
        self,
        topic: str,
        payload: bytes | str,
        qos: int = 1,
        retain: bool = False,
        *,
        done: Callable[[bool], None] | None = None,
    ) -> bool:
        """Send now; False when that cannot be. ``done(accepted)`` follows with the broker's answer."""
        ...

    def subscribe(self, topic: str, callback: Callable[[str, bytes], None], qos: int = 1) -> None:
        """Have ``callback(topic, payload)`` called for each message."""
        ...

    def reset(self) -> None:
        """Make a new connection."""
        ...


@dataclass(frozen=True)
class PublisherStats:
    """Counts since the start. ``refused``: answered by the broker with a failure; they are published again."""

    published: int
    backfilled: int
    answered: int
    refused: int
    in_flight: int


class Publisher:
    """Publishes what the journal holds, on a thread of its own. `start`, `stop`, or a context manager.

    Args:
        journal: Where entries come from and are acknowledged.
        link: The connection.
        topics: The device's topics; the envelope's ``stream`` is the pipeline's name.
        ack: ``broker`` or ``ledger``: whose acknowledgement lets an entry go.
        window: Most unanswered messages.
        backfill_per_s: Most backfill messages a second.
        ack_timeout_s: In ledger mode: how long to wait for an acknowledgement before publishing again. In both:
            how long the broker may leave everything unanswered before the connection counts as stuck.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        journal: Journal,
        link: Link,
        topics: Topics,
        *,
        ack: Literal["broker", "ledger"] = "broker",
        window: int = 500,
        backfill_per_s: float = 500.0,
        ack_timeout_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal, self._link, self._topics = journal, link, topics
        self._ack, self._window, self._clock = ack, window, clock
        self._per_s, self._ack_timeout_s = max(backfill_per_s, 0.1), ack_timeout_s
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._answers: deque[tuple[int, int, bool]] = deque()  # (session, row id, accepted)
        self._in_flight: set[int] = set()
        self._published = self._backfilled = self._answered = self._refused = 0
        self._session = self._generation = -1
        self._live_after = self._backfill_after = self._boundary = 0
        self._allowance, self._allowance_at = 0.0, clock()
        self._resend_s = ack_timeout_s
        self._resend_at: float | None = None
        self._last_answer_at = clock()
        self._marks: deque[tuple[float, int]] = deque()  # (when, newest published live), for the ledger's delay
        self._arrivals: deque[tuple[float, int]] = deque()  # (when, newest stored), for the live lag
        self._acknowledged_at = clock()
        journal.listen(self._stored)
        if ack == "ledger":
            link.subscribe(topics.ack, self._ledger_acknowledged)

    # --- life ------------------------------------------------------------------------------------------------

    def start(self) -> Publisher:
        """Begin publishing in the background."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()
        return self

    def stop(self, timeout_s: float = 5.0, *, drain_s: float = 0.0) -> None:
        """End; with ``drain_s`` wait so long for answers to what is stored. The journal keeps the rest."""
        deadline = self._clock() + drain_s
        while self._clock() < deadline and self._link.connected and self._journal.waiting:
            time.sleep(0.02)
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def __enter__(self) -> Publisher:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def stats(self) -> PublisherStats:
        """Counts until now."""
        return PublisherStats(
            self._published, self._backfilled, self._answered, self._refused, in_flight=len(self._in_flight)
        )

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                busy = self.step()
            except Exception:  # must go on: the journal still holds everything
                log.exception("publisher: a step failed in an unforeseen way")
                self._session = -1
                busy = False
                self._stopping.wait(0.5)
            if not busy:
                self._wake.wait(0.02 if self._link.connected else 0.1)
                self._wake.clear()
        self._settle()

    # --- one step --------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Take in answers and publish what the window allows. True when something was published."""
        self._settle()
        if not self._link.connected:
            return False
        if (self._link.session, self._journal.generation) != (self._session, self._generation):
            self._begin_session()
        self._check_stuck()
        self._check_lag()
        self._plan_resend()
        live = self._publish_live()
        return self._publish_backfill() or live

    def _begin_session(self) -> None:
        """All that is stored and unacknowledged by now is owed again, as backfill."""
        self._session, self._generation = self._link.session, self._journal.generation
        self._in_flight.clear()
        self._backfill_after, self._boundary = 0, self._journal.newest
        self._live_after = self._boundary
        self._marks.clear()
        self._arrivals.clear()
        self._resend_at = None
        self._last_answer_at = self._clock()

    def _publish_live(self) -> bool:
        free = min(self._window, self._link.window) - len(self._in_flight)
        if free <= 0:
            return False
        sent = self._publish(self._journal.pending(free, after=self._live_after), backfill=False)
        if sent is not None:
            self._live_after = sent
        return sent is not None

    def _publish_backfill(self) -> bool:
        now = self._clock()
        self._allowance = min(self._allowance + (now - self._allowance_at) * self._per_s, max(self._per_s / 10, 2.0))
        self._allowance_at = now
        if self._backfill_after >= self._boundary:
            return False
        half = (min(self._window, self._link.window) + 1) // 2
        free = min(int(self._allowance), half - len(self._in_flight))
        if free <= 0:
            return False
        page = self._journal.pending(free, after=self._backfill_after, until=self._boundary)
        entries = [entry for entry in page if entry[0] not in self._in_flight]
        if not entries:
            self._backfill_after = page[-1][0] if page else self._boundary
            return bool(page)
        sent = self._publish(entries, backfill=True)
        if sent is not None:
            self._backfill_after = sent
            self._allowance -= len(entries)
        return sent is not None

    def _publish(self, entries: Sequence[tuple[int, Envelope]], *, backfill: bool) -> int | None:
        """Publish in order; return the last row id that went out, None when none did."""
        sent: int | None = None
        for rowid, envelope in entries:
            payload = (envelope.model_copy(update={"backfill": True}) if backfill else envelope).to_json()
            topic = self._topics.prediction(envelope.stream)
            self._in_flight.add(rowid)
            if not self._link.publish(topic, payload, 1, False, done=partial(self._answer, self._session, rowid)):
                self._in_flight.discard(rowid)
                break
            sent = rowid
            self._published += 1
            self._backfilled += backfill
        return sent

    # --- answers ---------------------------------------------------------------------------------------------

    def _answer(self, session: int, rowid: int, accepted: bool) -> None:
        self._answers.append((session, rowid, accepted))  # on the link's thread: must not block
        self._wake.set()

    def _settle(self) -> None:
        gone = []
        while self._answers:
            session, rowid, accepted = self._answers.popleft()
            if session == self._session:
                self._in_flight.discard(rowid)
            self._last_answer_at = self._clock()
            self._answered += accepted
            if accepted and self._ack == "broker":
                gone.append(rowid)
            elif not accepted:
                self._refusal()
        if gone:
            self._journal.acknowledge(gone)

    def _refusal(self) -> None:
        self._refused += 1
        if self._resend_at is None:
            log.warning("publisher: the broker refuses messages (rights or quota); they are kept and tried again")
            self._resend_at = self._clock() + self._resend_s

    def _check_stuck(self) -> None:
        """A broker that answers pings but not messages gets a new connection."""
        if not self._in_flight:
            self._last_answer_at = self._clock()
        elif self._clock() - self._last_answer_at > max(self._ack_timeout_s, 10.0):
            log.warning("publisher: no answer to %d messages; making a new connection", len(self._in_flight))
            self._last_answer_at = self._clock()
            self._link.reset()

    def _check_lag(self) -> None:
        """On a link too slow for what is decided, the newest stay live and the older become backfill."""
        now = self._clock()
        if not self._arrivals or now - self._arrivals[-1][0] >= 0.25:
            self._arrivals.append((now, self._journal.newest))
        while self._arrivals and self._arrivals[0][1] <= self._live_after:
            self._arrivals.popleft()
        if self._arrivals and now - self._arrivals[0][0] > LIVE_LAG_S:
            log.warning("publisher: the link is too slow; decisions older than %g s follow as backfill", LIVE_LAG_S)
            if self._backfill_after >= self._boundary:
                self._backfill_after = self._live_after
            self._live_after = self._boundary = self._journal.newest
            self._arrivals.clear()

    # --- publishing again ------------------------------------------------------------------------------------

    def _plan_resend(self) -> None:
        """Begin a pass over everything still owed, when it has been owed for too long."""
        now = self._clock()
        if self._ack == "ledger":
            if not self._marks or now - self._marks[-1][0] >= 0.25:
                self._marks.append((now, self._live_after))
            if self._resend_at is None:
                self._resend_at = now + self._resend_s
        if self._resend_at is None or now < self._resend_at or self._backfill_after < self._boundary:
            return
        boundary = self._live_after
        if self._ack == "ledger":
            boundary = self._boundary
            while self._marks and now - self._marks[0][0] >= self._ack_timeout_s:
                boundary = max(boundary, self._marks.popleft()[1])
        self._backfill_after, self._boundary = 0, max(boundary, self._boundary)
        heard = now - self._acknowledged_at < 2 * self._ack_timeout_s
        self._resend_s = self._ack_timeout_s if heard else min(2 * self._resend_s, SLOWEST_RESEND_S)
        self._resend_at = now + self._resend_s if self._ack == "ledger" else None

    def _ledger_acknowledged(self, _topic: str, payload: bytes) -> None:
        try:
            for entry in json.loads(payload)["acks"]:
                stream, epoch = str(entry["stream"]), str(entry["epoch"])
                for first, last in entry["ranges"]:
                    self._journal.acknowledge_range(stream, epoch, int(first), int(last))
        except (ValueError, KeyError, TypeError) as error:
            log.warning("publisher: an acknowledgement could not be read (%s); the entries are kept", error)
            return
        silent_for = self._clock() - self._acknowledged_at
        self._acknowledged_at = self._clock()
        if silent_for > 2 * self._ack_timeout_s:  # the ledger is back: do not wait for the backed-off time
            self._resend_s = self._ack_timeout_s
            self._resend_at = self._clock()

    def _stored(self, _places: object) -> None:
        self._wake.set()

"""The ledger's process: subscribe with a persistent session, store, and only then answer broker and device."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType

from edge_sft.errors import DeviceError
from edge_sft.runtime import topics
from edge_sft.runtime.delivery import Delivery, accept_all
from edge_sft.runtime.ledger import Acknowledgement, Ledger, ack_payload
from edge_sft.runtime.mqtt import MqttLink, MqttSettings

log = logging.getLogger(__name__)
LARGEST_BATCH = 1000
LONGEST_RETRY_S = 10.0


class Receiver:
    """Feeds a ledger from a broker, on a thread of its own. A context manager.

    The broker gets its PUBACK and the device its acknowledgement only after the commit. While the disk refuses,
    nothing is answered: the messages stay with the broker and the devices, and the same batch is tried again.

    Args:
        ledger: The book.
        settings: The broker.
        prefix: Topic prefix of the devices.
        acknowledge: Whether to publish on the devices' ``ack`` topics.
        on_event: Told (kind, sentence) about the connection and the disk.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: MqttSettings,
        *,
        prefix: str = topics.DEFAULT_PREFIX,
        acknowledge: bool = True,
        on_event: Callable[[str, str], None] | None = None,
    ) -> None:
        topics.check_prefix(prefix)
        self.ledger, self.prefix = ledger, prefix
        self._acknowledge, self._on_event = acknowledge, on_event
        self._inbox: SimpleQueue[Delivery] = SimpleQueue()
        self._stopping = threading.Event()
        self._greet = threading.Event()
        self.received = 0
        self.link = MqttLink(
            settings, client_id=ledger.client_id, persistent=True, deliver=self._inbox.put, on_event=on_event
        )
        self.link.subscribe_delivery(topics.everything("prediction", prefix))
        self.link.on_connected(self._greet.set)
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> Receiver:
        """Begin receiving; never raises for the broker's sake."""
        self.link.start()
        self._thread.start()
        return self

    def stop(self, timeout_s: float = 5.0) -> None:
        """Store what has come, answer it, and end. The broker goes on queueing for this ledger."""
        self._stopping.set()
        self._thread.join(timeout_s)
        self.link.stop(timeout_s)

    def __enter__(self) -> Receiver:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        while True:
            if self._greet.is_set():
                self._greet.clear()
                self._answer(self.ledger.acknowledgements())
            batch = self._take()
            if batch:
                self._store_guarded(batch)
            elif self._stopping.is_set():
                return

    def _store_guarded(self, batch: Sequence[Delivery]) -> None:
        """Store a batch; if that fails in an unforeseen way, one by one, leaving out (unanswered) what fails."""
        try:
            self._store(batch)
        except Exception:
            log.exception("ledger: %d message(s) could not be stored", len(batch))
            for delivery in batch if len(batch) > 1 else ():
                self._store_guarded([delivery])

    def _take(self) -> list[Delivery]:
        """Wait for one message, then take what else has come: commits get larger as the load does."""
        batch: list[Delivery] = []
        with contextlib.suppress(Empty):
            batch.append(self._inbox.get(timeout=0.1))
            while len(batch) < LARGEST_BATCH:
                batch.append(self._inbox.get_nowait())
        return batch

    def _store(self, batch: Sequence[Delivery]) -> None:
        wait_s = 0.2
        while True:
            try:
                stored = self.ledger.accept([(d.topic, d.payload) for d in batch], prefix=self.prefix)
                break
            except DeviceError as error:
                if wait_s == 0.2:
                    self._tell("ledger_refused", str(error))
                if self._stopping.wait(wait_s):
                    return
                wait_s = min(2 * wait_s, LONGEST_RETRY_S)
        accept_all([delivery.accept for delivery in batch])
        self.received += len(batch)
        self._answer(stored)

    def _answer(self, acknowledgements: Sequence[Acknowledgement]) -> None:
        if not self._acknowledge:
            return
        by_device: dict[str, list[Acknowledgement]] = defaultdict(list)
        for acknowledgement in acknowledgements:
            by_device[acknowledgement.device].append(acknowledgement)
        for device, of_device in by_device.items():
            self.link.publish(f"{device}/ack", ack_payload(of_device), 1)

    def _tell(self, kind: str, sentence: str) -> None:
        log.warning(sentence)
        if self._on_event is not None:
            self._on_event(kind, sentence)

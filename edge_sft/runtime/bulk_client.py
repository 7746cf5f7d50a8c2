"""paho's client for thousands of messages a second: large reads, and no paho bookkeeping around each message.

paho reads its socket byte by byte, makes two objects with three locks for every message and wakes itself for every
answer: most of what a row costs the agent. `BulkClient` builds on three methods that paho does not publish (they are
alike from 1.6 to 2.2); a later paho without the two that are overridden gives every message to ``on_message`` again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import MQTTErrorCode

from edge_sft.runtime.delivery import Acceptance, Delivery

_READ_BYTES = 1 << 16


class BulkClient(Client):
    """A client that can hand its messages of QoS 0 and 1 on directly.

    What paho would refuse, QoS 2 and MQTT 5 (properties) go its own way, through ``on_message``.
    """

    _deliver: Callable[[Delivery], None] | None = None
    _ahead = b""
    _at = 0

    def deliver_to(self, deliver: Callable[[Delivery], None]) -> None:
        """Have every message handed to ``deliver``, on the thread that runs the loop."""

        def received(_client: Client, _data: Any, message: MQTTMessage) -> None:
            self._hand_on(message.topic, bytes(message.payload), message.mid, message.qos, message.dup)

        self._deliver = deliver
        self.on_message = received

    def loop(self, timeout: float = 1.0) -> MQTTErrorCode:
        """Do as paho's, for all that was read: what is here already `select` knows nothing of."""
        code = super().loop(timeout)
        while code == MQTTErrorCode.MQTT_ERR_SUCCESS and self._at < len(self._ahead):
            code = self.loop_read()
        return code

    def ack_all(self, mids: Sequence[int]) -> None:
        """Acknowledge messages of QoS 1, in the order in which they came, with one write."""
        answers = b"".join(b"\x40\x02" + mid.to_bytes(2, "big") for mid in mids)
        self._packet_queue(0x40, answers, mids[-1], 1)

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._at >= len(self._ahead):
            self._ahead, self._at = super()._sock_recv(_READ_BYTES), 0
        piece = self._ahead[self._at : self._at + bufsize]
        self._at += len(piece)
        return piece

    def _handle_publish(self) -> MQTTErrorCode:
        packet: Any = self._in_packet
        command, body = packet["command"], packet["packet"]
        qos = (command >> 1) & 3
        at = 2 + int.from_bytes(body[:2], "big")
        behind = at + 2 if qos else at
        if self._deliver is None or qos > 1 or self._protocol == MQTTv5 or at == 2 or behind > len(body):
            return super()._handle_publish()
        try:
            topic = bytes(body[2:at]).decode()
        except UnicodeDecodeError:
            return super()._handle_publish()
        self._hand_on(topic, bytes(body[behind:]), int.from_bytes(body[at:behind], "big"), qos, bool(command & 8))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _hand_on(self, topic: str, payload: bytes, mid: int, qos: int, again: bool) -> None:
        assert self._deliver is not None
        self._deliver(Delivery(topic, payload, Acceptance(self, mid, qos), again))

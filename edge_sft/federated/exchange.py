"""Questions and answers over Flower's Grid: who was asked what, and who has not answered yet.

Flower's own strategies wait for all replies or one silent timeout; here each message is followed to its end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edge_sft.errors import DataError
from edge_sft.federated.messages import Opened, opened, payload_bytes
from edge_sft.federated.outward import brief, flowers

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict
    from flwr.serverapp import Grid


class Clock(Protocol):
    """Time, so that tests need not wait."""

    def now(self) -> float:
        """Return monotonic seconds."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...


class WallClock:
    """Real time."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)


@dataclass(frozen=True)
class Asked:
    """A message that was sent.

    Attributes:
        node: To whom.
        kind: The message's type.
        round: Of which round; 0 outside of rounds.
        at: When, monotonic seconds.
        size: Bytes of its content as serialised.
    """

    node: int
    kind: str
    round: int
    at: float
    size: int


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        asked: The message it answers.
        content: What it says; None when ``why`` tells why not.
        why: What is wrong with it: the site's failure, or an answer that cannot be read.
        again: Whether this message had been answered before.
        size: Bytes of its content as serialised.
        seconds: From asking to answering.
        message: Flower's own, for what `Opened` does not hold.
    """

    asked: Asked
    content: Opened | None
    why: str
    again: bool
    size: int
    seconds: float
    message: Message


class Exchange:
    """The messages that are under way.

    Args:
        grid: Flower's.
        clock: Time.
        ttl_s: How long Flower keeps a message and its answer; far beyond a round's deadline, so that who is late can
            be told from who is dead.
    """

    def __init__(self, grid: Grid, clock: Clock, ttl_s: float) -> None:
        self._grid = grid
        self._clock = clock
        self._ttl_s = ttl_s
        self._open: dict[str, Asked] = {}
        self._closed: dict[str, Asked] = {}

    def online(self) -> list[int]:
        """Return the nodes that are connected, sorted."""
        return sorted(self._grid.get_node_ids())

    def ask(self, node: int, kind: str, round_number: int, content: RecordDict) -> Asked | None:
        """Send a message to one node; None when Flower did not take it."""
        from flwr.app import Message

        message = Message(content, node, kind, group_id=str(round_number), ttl=self._ttl_s)
        asked = Asked(node, kind, round_number, self._clock.now(), payload_bytes(content))
        found = [number for number in self._grid.push_messages([message]) if number]  # Flower gives None for a failure
        if not found:
            return None
        self._open[str(found[0])] = asked
        return asked

    def pending(self) -> list[Asked]:
        """Return what was asked and not answered."""
        return list(self._open.values())

    def busy(self) -> set[int]:
        """Return the nodes that still owe an answer."""
        return {asked.node for asked in self._open.values()}

    def answers(self) -> list[Answer]:
        """Return what has come since the last call, in the order in which it was asked."""
        if not self._open:
            return []
        found = [self._read(reply) for reply in self._grid.pull_messages(list(self._open))]
        return sorted((one for one in found if one is not None), key=lambda one: (one.asked.at, one.asked.node))

    def _read(self, reply: Message) -> Answer | None:
        number = reply.metadata.reply_to_message_id
        asked = self._open.pop(number, None)
        again = asked is None
        asked = asked or self._closed.get(number)
        if asked is None:
            return None  # an answer to nothing that this run asked
        self._closed[number] = asked
        seconds = self._clock.now() - asked.at
        if reply.has_error():
            why = brief(reply.error.reason or flowers(reply.error.code))
            return Answer(asked, None, why, again, 0, seconds, reply)
        size = payload_bytes(reply.content)
        try:
            return Answer(asked, opened(reply.content), "", again, size, seconds, reply)
        except DataError as error:
            return Answer(asked, None, f"its answer {error.fact}", again, size, seconds, reply)

"""Messages that stay the broker's until they are safe here, and telling it so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_sft.runtime.bulk_client import BulkClient


class Acceptance:
    """Tells the broker that a message is safe here; without effect when that connection is gone."""

    __slots__ = ("client", "mid", "qos")

    def __init__(self, client: BulkClient, mid: int, qos: int) -> None:
        self.client, self.mid, self.qos = client, mid, qos

    def __call__(self) -> None:
        """Tell it now."""
        self.client.ack(self.mid, self.qos)


@dataclass(frozen=True)
class Delivery:
    """A received message that stays the broker's until `accept` is called; ``again``: perhaps not the first time."""

    topic: str
    payload: bytes
    accept: Callable[[], None]
    again: bool = False


def accept_all(accepts: Sequence[Callable[[], None]]) -> None:
    """Call each, in order; those of one connection that follow each other with one write."""
    run: list[Acceptance] = []
    for one in accepts:
        if isinstance(one, Acceptance) and one.qos == 1 and (not run or one.client is run[0].client):
            run.append(one)
            continue
        _send(run)
        run = [one] if isinstance(one, Acceptance) and one.qos == 1 else []
        if not run:
            one()
    _send(run)


def _send(run: Sequence[Acceptance]) -> None:
    if run:
        run[0].client.ack_all([one.mid for one in run])

"""All sites in this process, behind the interface that Flower gives a coordinator. What is private of Flower is here.

Each message is written and read back as the network would, so that nothing is shared by accident.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from edge_sft.federated.outward import Sayable

_RAISED = 2  # flwr.common.constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION
_UNREACHABLE = 5  # NODE_UNAVAILABLE

NodeConfig = dict[str, str | int | float | bool]
Interfere = Callable[[Message, Message], list[Message]]


@dataclass
class _Inbox:
    replies: dict[str, list[Message]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class LocalGrid(Grid):
    """Sites in one process, answered in turn while they are asked, or each in a thread of its own.

    Args:
        app: What every site runs.
        sites: Each site's folder, by node id.
        threads: Whether sites answer beside each other. In turn is what gives the same bits: a training may draw from
            generators that belong to the process.
        interfere: Given a message and its answer, returns what arrives: nothing, two answers, another one. Faults.
    """

    def __init__(
        self,
        app: ClientApp,
        sites: Mapping[int, Path],
        *,
        threads: bool = False,
        interfere: Interfere | None = None,
    ) -> None:
        self._app = app
        self._threads = threads
        self._interfere = interfere
        self._contexts = {node: _context(node, {"site-dir": str(folder)}) for node, folder in sites.items()}
        self._away: set[int] = set()
        self._inbox = _Inbox()
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID

    def disconnect(self, node: int) -> None:
        """Take a site off the network; what it is asked from now on comes back as an error."""
        self._away.add(node)

    def connect(self, node: int) -> None:
        """Put a site back."""
        self._away.discard(node)

    def set_run(self, run: Run) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Run:
        """Return the one run."""
        return Run.create_empty(1)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the sites that are reachable."""
        return sorted(set(self._contexts) - self._away)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the sites that are reachable, as Flower describes nodes."""
        return [NodeInfo(node_id=node) for node in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages; in turn, this returns when they are answered."""
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the answers that are there, each once."""
        with self._inbox.lock:
            return [reply for wanted in message_ids for reply in self._inbox.replies.pop(wanted, [])]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver messages and return the answers that are there at once."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> str:
        asked = deepcopy(message)
        asked.metadata.__dict__["_message_id"] = str(uuid4())
        if self._threads:
            threading.Thread(target=self._answer, args=(asked,), daemon=True).start()
        else:
            self._answer(asked)
        return asked.metadata.message_id

    def _answer(self, asked: Message) -> None:
        try:
            replies = self._replies(asked)
        except BaseException as error:
            if not self._threads:
                raise  # whoever asked hears of it
            # a thread that ended without an answer would be waited for until the deadline
            replies = [Message(Error(_RAISED, f"its thread ended: {type(error).__name__}"), reply_to=asked)]
        for reply in replies:
            with self._inbox.lock:
                self._inbox.replies.setdefault(asked.metadata.message_id, []).append(reply)

    def _replies(self, asked: Message) -> list[Message]:
        node = asked.metadata.dst_node_id
        if node in self._away:
            return [Message(Error(_UNREACHABLE, "the node is not connected"), reply_to=asked)]
        try:
            reply = deepcopy(self._app(asked, self._contexts[node]))
        except Exception as error:  # noqa: BLE001 - as Flower does: a site's failure is an answer
            said = str(error) if isinstance(error, Sayable) else type(error).__name__
            reply = Message(Error(_RAISED, said), reply_to=asked)
        return [reply] if self._interfere is None else self._interfere(asked, reply)


def _context(node: int, config: NodeConfig) -> Context:
    return Context(run_id=1, node_id=node, node_config=dict(config), state=RecordDict(), run_config={})


def run_server(app: Any, grid: Grid, run_config: NodeConfig) -> None:
    """Run a ServerApp over a grid, as Flower's processes do."""
    state = RecordDict()
    app(grid, Context(1, SUPERLINK_NODE_ID, node_config={}, state=state, run_config=dict(run_config)))

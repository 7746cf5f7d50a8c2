"""Serving a site with a node that is a script: what it says, when it tries again, how it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest

from edge_sft.errors import UserError
from edge_sft.federated import site_files
from edge_sft.federated.preflight import Finding
from edge_sft.federated.serving import Serving, backoff
from edge_sft.federated.site_files import SiteFile, State

SITE = SiteFile(site="berlin", address="127.0.0.1:9", data="/data", apps=("ab" * 32,), ca_sha256="cd" * 32)


class Node:
    """Runs for some looks at it, and says something at the first."""

    def __init__(self, directory: Path, said: State, looks: int) -> None:
        self.directory, self.said, self.looks, self.stopped = directory, said, looks, False

    def poll(self) -> int | None:
        site_files.write_state(self.directory, self.said)
        self.looks -= 1
        return 75 if self.looks < 0 else None

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def root(tmp_path: Path) -> Path:
    site_files.write_site(tmp_path, SITE)
    return tmp_path


class Quick(Event):
    """A stop that never waits, and is set after some waits."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.left, self.waited = waits, [0.0]

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout or 0.0)
        self.left -= 1
        if self.left <= 0:
            self.set()
        return self.is_set()


def serving(root: Path, stop: Event, start: Callable[[], Node], look: list[Finding] | None = None) -> list[str]:
    said: list[str] = []
    Serving(root, said.append, stop, lambda site: look or [], start).run()
    return said


def test_it_says_what_changes_once_and_starts_again(root: Path) -> None:
    nodes = [Node(root, State("waiting", "t", "not approved yet"), 2), Node(root, State("serving", "t", "node 7"), 3)]
    started = iter(nodes)
    said = serving(root, Quick(7), lambda: next(started))
    assert said == ["waiting: not approved yet", "serving: node 7"]
    assert all(node.stopped for node in nodes)
    state = site_files.read_state(root)
    assert state is not None
    assert state.state == "stopped"


def test_no_node_is_started_while_something_is_wrong(root: Path) -> None:
    def never() -> Node:
        raise AssertionError

    wrong = Finding("error", "clock", "100 s ahead", "Set it.")
    assert serving(root, Quick(3), never, [wrong]) == ["waiting: clock: 100 s ahead. Set it."]


def test_a_node_that_cannot_start_is_said(root: Path) -> None:
    def broken() -> Node:
        raise OSError(12, "Cannot allocate memory")

    assert serving(root, Quick(2), broken) == ["waiting: the node does not start (Cannot allocate memory)"]


def test_waits_grow_to_half_a_minute() -> None:
    waits = backoff()
    assert [next(waits) for _ in range(6)] == [2, 4, 8, 16, 30, 30]


def test_one_process_a_site(root: Path) -> None:
    with site_files.locked(root), pytest.raises(UserError, match="is served by another process"):
        serving(root, Quick(1), lambda: Node(root, State("serving", "t"), 1))


def test_stopping_ends_the_node(root: Path) -> None:
    stop, node = Event(), Node(root, State("serving", "t", "node 7"), 10**9)
    thread = Thread(target=serving, args=(root, stop, lambda: node))
    thread.start()
    stop.set()
    thread.join(60)
    assert not thread.is_alive()

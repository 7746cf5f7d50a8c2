"""The pin of the apps, against the real Flower: its own check takes what we vouch for, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_sft.errors import DeviceError
from edge_sft.federated import node

pytest.importorskip("flwr", reason="Flower is not installed: the pin of the apps was not proved")

APP = b"an app"
DIGEST = hashlib.sha256(APP).hexdigest()


def connection_of(content: bytes, named: str) -> Any:
    """A connection of Flower's form that fetches these bytes under this name."""
    from flwr.supercore.fab import Fab

    @contextlib.contextmanager
    def connect() -> Iterator[Any]:
        yield (7, "receive", "send", "run", lambda digest, run: Fab(named, content, {"old": "proof"}), "a", "b", "c")

    return connect


def fetched(content: bytes, named: str) -> tuple[Any, node.Voucher, list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    voucher = node.new_voucher([DIGEST])
    with node.pinned(connection_of(content, named), voucher, lambda *said: told.append(said), Path("/"))() as parts:
        assert (parts[:2], parts[3]) == ((7, "receive"), "run")
        assert parts[5:] == ("a", "b", "c")
        return parts[4](named, 1), voucher, told


def test_flowers_own_check_takes_the_app_of_the_invite() -> None:
    from flwr.supernode.start_client_internal import _verify_fab

    fab, voucher, told = fetched(APP, DIGEST)
    assert fab.content == APP
    assert fab.verifications["valid_license"]
    assert _verify_fab(fab, voucher.trusted)
    assert not _verify_fab(fab, node.new_voucher([DIGEST]).trusted)  # another process's key proves nothing
    assert told == [("serving", "7")]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"an bpp", hashlib.sha256(b"an bpp").hexdigest()),  # one byte
        (b"an bpp", DIGEST),  # under the right app's name
        (APP, DIGEST[::-1]),  # the right app, to be unpacked over another one
        (b"", DIGEST),
    ],
)
def test_any_other_app_stays_without_proof(content: bytes, named: str) -> None:
    fab, _, told = fetched(content, named)
    assert fab.verifications == {}
    assert told[-1][0] == "refused"
    assert hashlib.sha256(content).hexdigest() in told[-1][1]


def test_flower_answers_invalid_fab_to_an_app_without_proof() -> None:
    from flwr.supernode import start_client_internal as worker

    source = inspect.getsource(worker._pull_and_store_message)
    refusal = source.index("FAB_VERIFICATION_ERROR")
    assert source.index("get_fab(run_info.fab_hash") < refusal < source.index("state.store_fab(fab)")
    assert 'if not fab.verifications.get("valid_license", "")' in source


def test_the_names_of_flower_that_are_used_are_there() -> None:
    from flwr.supercore.superexec import run_superexec
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.cli.flower_supernode import flower_supernode
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    assert node.check_version() in node.KNOWN
    assert list(inspect.signature(start_client_internal.http_request_response).parameters)[:4] == [
        "server_address",
        "insecure",
        "root_certificates",
        "authentication_keys",
    ]
    assert "http_request_response(" in inspect.getsource(start_client_internal._init_connection)
    yielded = inspect.getsource(fleet_http_connection.http_request_response).split("yield (")[1].split(")")[0]
    words = [word.strip() for word in yielded.split(",") if word.strip()]
    assert [words[at] for at in (node._SEND, node._GET_FAB, node._PUSH)] == ["send", "get_fab", "push_object"]
    pushing = inspect.getsource(start_client_internal._push_messages)
    assert "ids_obj_to_send, session_id = send(message, object_tree, clientapp_runtime)" in pushing
    assert "flwr_exit(" in inspect.getsource(fleet_http_connection.http_request_response)
    assert "get_executor(" in inspect.getsource(run_superexec.run_superexec)
    assert callable(flower_supernode)
    assert callable(flwr_clientapp)


def test_an_unknown_version_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9.9")
    with pytest.raises(DeviceError, match=r"is version 9\.9\.9; .*pip install flwr==1\.41\.0"):
        node.check_version()


def test_flowers_reason_is_said_in_one_line() -> None:
    message = "Failed to initialize the connection to the SuperLink.\n[code: 2004] Failed to activate SuperNode."
    said = node._not_admitted(message)
    assert "not approved yet, or revoked" in said
    assert "[code: 2004]" in said
    assert "\n" not in said


def test_a_folder_that_is_no_site_is_told_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge_sft.federated.node", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == 2
    assert "is no site" in done.stderr
    assert "Traceback" not in done.stderr


def test_flowers_own_words_for_a_failure_stay_at_the_site(tmp_path: Path) -> None:
    from flwr.app import Error, Message, RecordDict
    from flwr.supercore.inflatable.inflatable_object import get_object_tree

    from edge_sft.federated import chain

    asked = Message(RecordDict(), 7, "train.round")
    asked.metadata.__dict__["_message_id"] = "ab" * 32
    secret = "<class 'OSError'>:<'No space left on device: /srv/plant/line-3'>"
    failed = Message(Error(2, secret), reply_to=asked)
    failed.metadata.__dict__["_message_id"] = failed.object_id
    sent: list[Any] = []
    pushed: dict[str, bytes] = {}

    def send(message: Any, tree: Any, seconds: float) -> tuple[set[str], str]:
        sent.append((message, tree, seconds))
        return {tree.object_id}, "session"

    def push(run: int, session: str, name: str, content: bytes) -> None:
        pushed[name] = content

    sending = node.worded(send, push, tmp_path)
    assert sending(failed, get_object_tree(failed), 1.5) == (set(), "session"), "Flower has nothing left to push"
    ((message, tree, seconds),) = sent
    assert seconds == 1.5
    assert (message.error.code, message.metadata.reply_to_message_id) == (2, "ab" * 32)
    assert message.error.reason == "the app failed there (Flower's error 2); the site's own node.log says more"
    assert message.metadata.message_id == message.object_id == tree.object_id
    assert list(pushed) == [tree.object_id]
    assert hashlib.sha256(pushed[tree.object_id]).hexdigest() == tree.object_id, "what the coordinator checks"
    assert b"/srv/plant" not in pushed[tree.object_id]
    (line,) = chain.check(tmp_path / "ledger.jsonl").records
    assert (line["kind"], line["said"]) == ("train.round", message.error.reason)

    good = Message(RecordDict(), reply_to=asked)
    node.worded(lambda *all_of_it: sent.append(all_of_it) or (set(), ""), push, tmp_path)(good, "tree", 2.0)
    assert sent[-1] == (good, "tree", 2.0), "what is no failure goes as it is"
    assert len(chain.check(tmp_path / "ledger.jsonl").records) == 1

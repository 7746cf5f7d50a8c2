from __future__ import annotations

import socket
import time
from datetime import timedelta
from pathlib import Path

import pytest

from edge_sft.errors import NetworkError
from edge_sft.federated import pki, preflight
from edge_sft.progress import Silent

from .sites import NOW, Coordinator


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    return Coordinator(tmp_path)


def test_a_coordinator_that_answers_with_the_right_time(coordinator: Coordinator) -> None:
    with coordinator.answering() as port:
        found = preflight.coordinator(f"localhost:{port}", coordinator.ca)
    assert [one.level for one in found] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("ahead_s", "level", "words"),
    [
        (-30, "error", "30 s ahead of the coordinator's; Flower refuses sites more than 5 s ahead"),
        (400, "error", "400 s behind the coordinator's; Flower refuses sites more than 305 s behind"),
        (60, "warning", "60 s behind the coordinator's"),
    ],
)
def test_a_wrong_clock_is_said_with_its_sign(coordinator: Coordinator, ahead_s: float, level: str, words: str) -> None:
    with coordinator.answering(ahead_s=ahead_s) as port:
        found = preflight.coordinator(f"127.0.0.1:{port}", coordinator.ca)[-1]
    assert found.level == level
    told = int(found.fact.split(" ")[0])
    assert abs(told - abs(ahead_s)) <= 2  # the header counts whole seconds
    assert found.fact.split(" ", 1)[1] == words.split(" ", 1)[1]
    assert "timedatectl" in found.remedy


def test_an_own_clock_that_is_wrong_is_the_same_fact(coordinator: Coordinator) -> None:
    with coordinator.answering() as port:
        found = preflight.coordinator(f"127.0.0.1:{port}", coordinator.ca, lambda: time.time() + 100)[-1]
    assert (found.level, found.what) == ("error", "clock")


def test_an_answer_without_time_is_no_verdict(coordinator: Coordinator) -> None:
    with coordinator.answering(date=False) as port:
        assert preflight.clock_offset(f"127.0.0.1:{port}", coordinator.ca) is None
    assert preflight.judge_clock(None).level == "warning"


def test_another_authority_is_named(coordinator: Coordinator, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Coordinator(tmp_path / "other")
    with coordinator.answering() as port, pytest.raises(NetworkError, match=r"another authority.*new invite"):
        preflight.clock_offset(f"127.0.0.1:{port}", other.ca)


def test_a_name_that_the_certificate_is_not_for(coordinator: Coordinator) -> None:
    wanted = r"not for '127\.0\.0\.2'.*--renew --also"
    with coordinator.answering(host="127.0.0.2") as port, pytest.raises(NetworkError, match=wanted):
        preflight.clock_offset(f"127.0.0.2:{port}", coordinator.ca)


def test_a_certificate_that_expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pki, "check_clock", lambda now: None)
    old = Coordinator(tmp_path, now=NOW - timedelta(days=800))  # its authority holds for ten years, the server for two
    with old.answering() as port, pytest.raises(NetworkError, match=r"expired.*timedatectl"):
        preflight.clock_offset(f"127.0.0.1:{port}", old.ca)


def test_a_port_that_does_not_speak_tls(coordinator: Coordinator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        address = f"127.0.0.1:{plain.getsockname()[1]}"
        import threading

        def answer() -> None:
            connection, _ = plain.accept()
            with connection:
                connection.recv(1)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                connection.recv(4096)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(NetworkError, match="does not speak TLS"):
            preflight.clock_offset(address, coordinator.ca)
        thread.join()


def test_addresses_where_nobody_is(coordinator: Coordinator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NetworkError, match=r"nobody listens there.*federate up"):
        preflight.clock_offset(f"127.0.0.1:{port}", coordinator.ca)
    with pytest.raises(NetworkError, match=r"the name 'no-such-host\.invalid' is not known here.*DNS"):
        preflight.clock_offset("no-such-host.invalid:443", coordinator.ca)


def test_the_other_ways_of_not_reaching_have_their_words() -> None:
    for error in (TimeoutError(), ConnectionResetError(), OSError(101, "Network is unreachable")):
        fact, remedy = preflight._unreachable(error, "host")
        assert fact
        assert remedy


@pytest.mark.parametrize(("free", "level"), [(2**20, "error"), (2**30, "warning"), (2**33, "ok")])
def test_room_on_the_disk(tmp_path: Path, free: int, level: str) -> None:
    assert preflight.disk(tmp_path / "not" / "there", lambda _: free).level == level


def test_versions_must_be_equal() -> None:
    assert preflight.versions("0.1.0", "0.1.0").level == "ok"
    found = preflight.versions("0.2.0", "0.1.0")
    assert found.level == "error"
    assert "==0.2.0" in found.remedy


RECIPE = """
modality = "window"
name = "engines"
[task]
kind = "regression"
unit = "cycles"
[data]
path = "elsewhere"
time = "cycle"
group = 'file:^(.+)\\.csv$'
channels = [{name = "a"}, {name = "b"}]
[window]
period_s = 1
length = 8
"""


def rows(folder: Path, count: int, header: str = "cycle,a,b") -> Path:
    folder.mkdir()
    for engine in range(count):
        lines = [f"{cycle},{cycle * 0.1},{engine}" for cycle in range(40)]
        (folder / f"engine-{engine}.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder


def test_the_sites_own_data_is_held_to_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    assert [one.level for one in preflight.data(recipe, rows(tmp_path / "good", 8), Silent())] == ["ok"]
    found = preflight.data(recipe, rows(tmp_path / "other", 8, "cycle,a,c"), Silent())
    assert [(one.level, one.what) for one in found] == [("error", "data")]
    assert "b" in found[0].fact

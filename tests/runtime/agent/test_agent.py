"""The whole agent against a real broker, with really deployed small models: as a plant has it, and what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_sft.errors import DeviceError
from edge_sft.runtime.agent import Agent
from edge_sft.runtime.service import notifier
from edge_sft.runtime.sources.iterator import IteratorSource
from edge_sft.runtime.sources.picture import SUFFIXES

FRAME = np.zeros((48, 64, 3), np.uint8)
FILES = {"kind": "files", "path": "."}


def test_a_watched_folder_becomes_decisions(
    tmp_path: Path,
    broker: Any,
    listen: Callable[..., Any],
    deploy: Callable[..., Any],
    configure: Callable[..., Any],
    running: Callable[..., Any],
    write_picture: Callable[..., Path],
    eventually: Callable[..., Any],
) -> None:
    root, pictures = tmp_path / "root", tmp_path / "pictures"
    deploy(root)
    pictures.mkdir()
    heard = listen(broker.port)
    source = {"kind": "folder", "path": pictures, "after": "move"}
    trigger = {"kind": "filename", "pattern": r"^(?P<part_id>P\d+)"}
    agent = Agent(configure(root, broker.port, {"source": source, "trigger": trigger}))
    end = running(agent)
    for number in range(5):
        write_picture(pictures / f"P{number}.png", colour=40 * number)
    eventually(lambda: len(heard.predictions()) == 5)
    assert sorted(one.part_id for one in heard.predictions()) == [f"P{number}" for number in range(5)]
    assert sorted(one.seq for one in heard.envelopes()) == list(range(5))
    assert all(one.verdict in ("ok", "nok") and one.model is not None for one in heard.predictions())
    eventually(lambda: heard.said("metrics") and heard.said("metrics")[-1]["counts"].get("decisions") == 5)
    state = eventually(lambda: heard.state() if heard.state().get("last_decision_age_s") is not None else None)
    assert (state["online"], state["status"], state["model"]["name"]) == (True, "running", "small")
    eventually(lambda: len(list((pictures / "done").iterdir())) == 5)
    assert any(event["kind"] == "deployed" for event in heard.said("event"))
    end()
    eventually(lambda: heard.state()["online"] is False)
    late = listen(broker.port)
    eventually(lambda: [m for m in late.messages if m[0].endswith("/device/state")])
    _, body, retained = next(m for m in late.messages if m[0].endswith("/device/state"))
    assert retained
    assert json.loads(body)["online"] is False


def test_pictures_that_say_they_are_huge_are_refused_and_the_next_one_is_decided(
    tmp_path: Path,
    broker: Any,
    listen: Callable[..., Any],
    deploy: Callable[..., Any],
    configure: Callable[..., Any],
    running: Callable[..., Any],
    write_picture: Callable[..., Path],
    eventually: Callable[..., Any],
    bombs: dict[str, bytes],
) -> None:
    resource = pytest.importorskip("resource", reason="Windows does not tell a process's peak memory")
    root, pictures = tmp_path / "root", tmp_path / "pictures"
    deploy(root)
    heard = listen(broker.port)
    running(Agent(configure(root, broker.port, {"source": {"kind": "folder", "path": pictures}})))
    write_picture(pictures / "first.png")
    eventually(lambda: len(heard.predictions()) == 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = {suffix: content for suffix, content in bombs.items() if suffix in SUFFIXES}
    for suffix, content in taken.items():
        (pictures / f"bomb{suffix}").write_bytes(content)
    eventually(lambda: len(heard.predictions()) == 1 + len(taken))
    write_picture(pictures / "last.png")
    eventually(lambda: heard.predictions()[-1].name == "last.png")
    said = {one.name: one for one in heard.predictions()}
    assert all(said[name].verdict in ("ok", "nok") for name in ("first.png", "last.png"))
    for suffix in taken:
        assert said[f"bomb{suffix}"].verdict == "no_decision"
        assert "MiB decoded" in said[f"bomb{suffix}"].reason
        assert "scale it down" in said[f"bomb{suffix}"].reason
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; one of them takes 5 GB


def test_a_message_triggers_one_decision(
    tmp_path: Path,
    broker: Any,
    listen: Callable[..., Any],
    deploy: Callable[..., Any],
    configure: Callable[..., Any],
    running: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    deploy(tmp_path)
    heard = listen(broker.port)
    config = configure(tmp_path, broker.port, {"source": FILES, "trigger": {"kind": "mqtt"}})
    agent = Agent(config, sources={"main": IteratorSource([FRAME] * 40, "main")})
    running(agent)
    eventually(lambda: heard.state().get("status") == "running")
    for number in range(50):
        heard.client.publish("edge-sft/v1/site/line/device/main/trigger", json.dumps({"part_id": number}), 1)
    eventually(lambda: len(heard.predictions()) == 50)
    assert [one.part_id for one in heard.predictions()] == [str(number) for number in range(50)]
    assert [one.verdict for one in heard.predictions()].count("no_decision") == 10


def test_a_deploy_while_running_drops_nothing_and_a_refused_one_changes_nothing(
    tmp_path: Path,
    broker: Any,
    listen: Callable[..., Any],
    deploy: Callable[..., Any],
    small: Any,
    configure: Callable[..., Any],
    running: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    deploy(tmp_path)
    heard = listen(broker.port)

    def frames() -> Iterator[Any]:
        while True:
            yield FRAME

    source = IteratorSource(frames(), "main", rate=60)
    end = running(Agent(configure(tmp_path, broker.port, {"source": FILES}), sources={"main": source}))
    eventually(lambda: len(heard.predictions()) > 10)
    bigger = {"fp32": small.graph(size=32, seed=1)}
    deploy(tmp_path, seed=1, graphs=bigger, size=32)
    eventually(lambda: heard.predictions()[-1].model.version == "1.0.1")
    with pytest.raises(Exception, match="finite"):
        deploy(tmp_path, seed=2, graphs={"fp32": small.graph(seed=2, nan=True)})
    time.sleep(0.5)
    end()
    eventually(lambda: heard.state()["online"] is False)
    heard_all = sorted(heard.envelopes(), key=lambda one: one.seq)  # decided before it connected: comes as backfill
    assert [one.seq for one in heard_all] == list(range(len(heard_all)))
    names = [int(one.prediction.name) for one in heard_all if one.prediction]
    assert names == list(range(1, len(names) + 1))
    assert heard_all[-1].prediction is not None
    assert heard_all[-1].prediction.model.version == "1.0.1"


def test_without_a_broker_the_line_goes_on_and_all_is_told_later(
    tmp_path: Path,
    make_mosquitto: Callable[..., Any],
    listen: Callable[..., Any],
    deploy: Callable[..., Any],
    configure: Callable[..., Any],
    running: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    deploy(tmp_path)
    broker = make_mosquitto()
    broker.stop()
    agent = Agent(
        configure(tmp_path, broker.port, {"source": FILES}),
        sources={"main": IteratorSource([FRAME] * 30, "main")},
    )
    running(agent)
    eventually(lambda: agent.pipelines[0].finished)
    agent.journal.flush(5)
    assert agent.journal.waiting == 30
    assert "no broker answers there" in str(agent.link.last_error)
    broker.start()
    heard = listen(broker.port)
    eventually(lambda: len({one.seq for one in heard.envelopes()}) == 30, 20)
    assert {one.seq for one in heard.envelopes()} == set(range(30))
    eventually(lambda: any("no broker answers" in event["detail"] for event in heard.said("event")))


def test_a_wrong_password_is_said_and_the_line_goes_on(
    tmp_path: Path,
    make_mosquitto: Callable[..., Any],
    deploy: Callable[..., Any],
    configure: Callable[..., Any],
    running: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto_passwd is not installed: wrong passwords are not proved")
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "line1", "right"], check=True)
    passwords.chmod(0o644)
    broker = make_mosquitto(f"password_file {passwords}\nallow_anonymous false\n")
    (tmp_path / "secret").write_text("wrong\n")
    deploy(tmp_path)
    mqtt = {"username": "line1", "password_file": tmp_path / "secret"}
    agent = Agent(
        configure(tmp_path, broker.port, {"source": FILES}, mqtt=mqtt),
        sources={"main": IteratorSource([FRAME] * 3, "main")},
    )
    running(agent)
    eventually(lambda: agent.pipelines[0].finished and agent.link.last_error)
    assert "line1" in str(agent.link.last_error)
    assert "password" in str(agent.link.last_error)
    agent.journal.flush(5)
    assert agent.journal.waiting == 3
    (tmp_path / "secret").write_text("right\n")  # mended while it runs
    eventually(lambda: agent.link.connected and agent.journal.waiting == 0, 20)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small tmpfs needs root: a full disk under the agent is not proved")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=False).returncode:
        pytest.skip("this machine does not let a tmpfs be mounted: a full disk under the agent is not proved")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_full_disk_stops_no_decision(
    small_disk: Path,
    broker: Any,
    listen: Callable[..., Any],
    deploy: Callable[..., Any],
    configure: Callable[..., Any],
    running: Callable[..., Any],
    eventually: Callable[..., Any],
    fakes: Any,
) -> None:
    heard = listen(broker.port)
    agent = Agent(
        configure(small_disk, broker.port, {"source": FILES}),
        sources={"main": IteratorSource([FRAME] * 200, "main", rate=100)},
        loaders={"main": fakes.Loader(fakes.Model())},
    )
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    running(agent)
    eventually(lambda: len({(one.epoch, one.seq) for one in heard.envelopes() if one.prediction}) == 200, 20)
    assert any(event["kind"] == "journal_in_memory" for event in heard.said("event"))
    filler.unlink()
    eventually(lambda: agent.journal.on_disk, 20)


def test_a_second_agent_on_the_same_root_is_refused(tmp_path: Path, configure: Callable[..., Any]) -> None:
    config = configure(tmp_path, 1, {"source": FILES})
    first = Agent(config)
    with pytest.raises(DeviceError, match="in use by another agent"):
        Agent(config)
    first.journal.close()


def write_config(path: Path, port: int, root: Path, pictures: Path, after: str) -> None:
    path.write_text(
        f'[agent]\nroot = "{root.as_posix()}"\nheartbeat_s = 0.5\n[mqtt]\nport = {port}\nbackfill_per_s = 2000.0\n'
        f'[[pipeline]]\nsource = {{ kind = "folder", path = "{pictures.as_posix()}", after = "{after}" }}\n'
    )


def start_agent(config: Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edge_sft.cli.main", "run", "--config", str(config)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


@pytest.mark.parametrize("after", ["keep", "move"])
def test_killed_and_started_again_it_goes_on_where_it_was(
    tmp_path: Path,
    broker: Any,
    listen: Callable[..., Any],
    deploy: Callable[..., Any],
    write_picture: Callable[..., Path],
    eventually: Callable[..., Any],
    after: str,
) -> None:
    """Every picture is decided, numbers have no holes, and nothing is lost; a few may be decided twice."""
    root, pictures, config = tmp_path / "root", tmp_path / "pictures", tmp_path / "agent.toml"
    deploy(root)
    write_config(config, broker.port, root, pictures, after)
    heard = listen(broker.port)
    written = 0
    for round_number in range(3):
        agent = start_agent(config)
        for _ in range(40):
            write_picture(pictures / f"{written:04d}.png", colour=written)
            written += 1
        goal = written - 40 + 10 * (round_number + 1)
        eventually(lambda goal=goal: len({one.name for one in heard.predictions()}) >= goal, 20)
        agent.send_signal(signal.SIGKILL)
        agent.communicate()
        eventually(lambda: any(said.get("reason") == "connection lost" for said in heard.said("device/state")))
    agent = start_agent(config)
    write_picture(pictures / "last.png")
    eventually(lambda: len({one.name for one in heard.predictions()}) == written + 1, 20)
    agent.terminate()
    output, _ = agent.communicate(timeout=20)
    assert agent.returncode == 0, output
    assert "Traceback" not in output
    (epoch,) = {one.epoch for one in heard.envelopes()}
    numbers = {one.seq for one in heard.envelopes()}
    assert numbers == set(range(len(numbers)))
    assert len(epoch) == 16
    states = len(heard.said("main/state"))
    again = start_agent(config)  # after a clean stop nothing is decided twice
    eventually(lambda: any(said["online"] for said in heard.said("main/state")[states:]), 20)
    time.sleep(1.0)
    again.terminate()
    again.communicate(timeout=20)
    assert {one.seq for one in heard.envelopes()} == numbers


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    missing = start_agent(tmp_path / "none.toml")
    output, _ = missing.communicate(timeout=20)
    assert missing.returncode == 2
    assert "does not exist" in output
    assert "Traceback" not in output


def test_systemd_hears_ready_watchdog_and_stopping(
    tmp_path: Path, configure: Callable[..., Any], fakes: Any, eventually: Callable[..., Any]
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(5)
        agent = Agent(
            configure(tmp_path, 1, {"source": FILES}),
            sources={"main": IteratorSource([FRAME], "main")},
            loaders={"main": fakes.Loader(fakes.Model())},
            notify=notifier(address),
        )
        stop = threading.Event()
        thread = threading.Thread(target=agent.run, args=(stop,))
        thread.start()
        assert manager.recv(100) == b"READY=1"
        assert manager.recv(100) == b"WATCHDOG=1"
        stop.set()
        heard = manager.recv(100)
        while heard == b"WATCHDOG=1":
            heard = manager.recv(100)
        assert heard == b"STOPPING=1"
        thread.join(20)
    notifier(None)("READY=1")
    notifier(str(tmp_path / "nobody"))("READY=1")


def test_until_done_ends_by_itself(
    tmp_path: Path, broker: Any, configure: Callable[..., Any], fakes: Any, listen: Callable[..., Any]
) -> None:
    heard = listen(broker.port)
    agent = Agent(
        configure(tmp_path, broker.port, {"source": FILES}),
        sources={"main": IteratorSource([FRAME] * 25, "main")},
        loaders={"main": fakes.Loader(fakes.Model())},
    )
    agent.run(threading.Event(), until_done=True)
    assert agent.publisher.stats.answered == 25
    time.sleep(0.1)
    assert len(heard.predictions()) == 25

"""Keeping programs running: started in order, again when they end, ended together, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_sft.errors import DeviceError, EdgeSftError, UserError
from edge_sft.federated import supervisor
from edge_sft.federated.supervisor import Part, Supervisor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is left behind is found through /proc")
SLEEP = "import time, pathlib, sys; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
# Leaves a child of a session of its own, as Flower's SuperLink does.
PARENT = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {SLEEP!r}, sys.argv[1] + ".child"], start_new_session=True)
{SLEEP}
"""


def eventually(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"never came: {what}")


def part(folder: Path, name: str, script: str = SLEEP, **more: Any) -> Part:
    touched = folder / f"{name}.touched"
    command = [sys.executable, "-c", script, str(touched)]
    return Part(name, command, dict(os.environ), folder / f"{name}.log", ready=touched.exists, **more)


class Running:
    """A supervisor in a thread."""

    def __init__(self, folder: Path, parts: list[Part]) -> None:
        self.folder, self.said, self.error = folder, [], None
        self.stop, self.ready = threading.Event(), threading.Event()
        self._supervisor = Supervisor(folder, parts, self.said.append)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._supervisor.run(self.stop, self.ready.set)
        except EdgeSftError as error:
            self.error = error

    def pid(self, name: str) -> int:
        return int((self.folder / f"{name}.pid").read_text())

    def end(self) -> None:
        self.stop.set()
        self._thread.join(30)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def start(*parts: Part) -> Running:
        made.append(Running(tmp_path, list(parts)))
        return made[-1]

    yield start
    for one in made:
        one.end()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def marked(folder: Path) -> list[int]:
    return [pid for pid in supervisor._processes() if supervisor._mark_of(pid).startswith(f"{folder}:") and alive(pid)]


def test_a_killed_part_starts_again_and_its_children_do_not_stay(run, tmp_path):
    running = run(part(tmp_path, "one", PARENT))
    assert running.ready.wait(30)
    eventually(lambda: len(marked(tmp_path)) == 2, "parent and child")
    first = marked(tmp_path)

    os.kill(running.pid("one"), signal.SIGKILL)
    eventually(lambda: len(running.said) == 2, "started again")

    assert "one ended (signal SIGKILL); it starts again" in running.said[0]
    assert running.said[1] == "one is back"
    assert not any(alive(pid) for pid in first)
    running.end()
    eventually(lambda: marked(tmp_path) == [], "nothing left")
    assert running.error is None


def test_what_a_killed_supervisor_left_is_ended_by_the_next(run, tmp_path):
    environment = {**os.environ, supervisor.MARK: f"{tmp_path}:one"}
    left = subprocess.Popen([sys.executable, "-c", SLEEP, str(tmp_path / "x")], env=environment, start_new_session=True)
    other = {**os.environ, supervisor.MARK: f"{tmp_path}x:one"}
    stays = subprocess.Popen([sys.executable, "-c", SLEEP, str(tmp_path / "y")], env=other, start_new_session=True)
    eventually((tmp_path / "x").exists, "the one that is left")

    assert run(part(tmp_path, "one")).ready.wait(30)

    assert left.wait(30) == -signal.SIGKILL
    assert stays.poll() is None  # another federation's
    stays.kill()
    stays.wait()


def test_what_was_left_of_a_later_part_is_ended_even_where_an_earlier_one_does_not_start(run, tmp_path):
    environment = {**os.environ, supervisor.MARK: f"{tmp_path}:two"}
    left = subprocess.Popen([sys.executable, "-c", SLEEP, str(tmp_path / "x")], env=environment, start_new_session=True)
    eventually((tmp_path / "x").exists, "the one that is left")
    running = run(part(tmp_path, "one", "raise SystemExit('broken')"), part(tmp_path, "two"))
    eventually(lambda: running.error, "an error")

    assert left.wait(30) == -signal.SIGKILL


def test_parts_start_in_order_and_end_in_the_other(run, tmp_path):
    order: list[str] = []
    script = """
import pathlib, signal, sys, time
def end(*_):
    with open(sys.argv[1] + ".order", "w") as file: file.write(str(time.monotonic_ns()))
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""
    one = part(tmp_path, "one", script, prepare=lambda: order.append("one"))
    two = part(tmp_path, "two", script, prepare=lambda: order.append("two"))
    running = run(one, two)
    assert running.ready.wait(30)
    running.end()

    assert order == ["one", "two"]
    ended = {name: int((tmp_path / f"{name}.touched.order").read_text()) for name in ("one", "two")}
    assert ended["two"] < ended["one"]
    assert not list(tmp_path.glob("*.pid"))


def test_a_part_that_never_starts_is_said_with_its_last_words(run, tmp_path):
    running = run(part(tmp_path, "one"), part(tmp_path, "two", "raise SystemExit('no such thing')"))
    eventually(lambda: running.error, "an error")

    assert isinstance(running.error, DeviceError)
    assert "two: did not start: no such thing" in str(running.error)
    eventually(lambda: marked(tmp_path) == [], "nothing left")


def test_one_supervisor_a_folder(run, tmp_path):
    assert run(part(tmp_path, "one")).ready.wait(30)
    second = run(part(tmp_path, "two"))
    eventually(lambda: second.error, "a refusal")

    assert isinstance(second.error, UserError)
    assert "served already" in str(second.error)


def test_logs_are_kept_short(tmp_path):
    log = tmp_path / "one.log"
    log.write_bytes(b"x" * 100)
    one = part(tmp_path, "one")

    supervisor.trim_logs([one], limit_bytes=100)
    assert log.stat().st_size == 100
    supervisor.trim_logs([one], limit_bytes=99)
    assert log.stat().st_size == 0
    assert (tmp_path / "one.log.1").stat().st_size == 100

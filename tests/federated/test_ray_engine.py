"""The same coordinator and sites on Flower's own engine: the same bits as in one process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="no Flower: its simulation engine is not proved")

from edge_sft.errors import DeviceError, NetworkError
from edge_sft.federated.app import app_directory
from edge_sft.federated.ray_engine import _follow, last_lines, run_on_ray
from edge_sft.federated.run_store import RunStore
from edge_sft.federated.superlink import RunState

from . import plants

CLIENT = """
import plants

from edge_sft.federated.app import make_client_app

app = make_client_app(plants.make)
"""


@pytest.fixture
def engine() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield child
    child.kill()
    child.wait()


def followed(tmp_path: Path, engine: Any, ask: Callable[[], RunState | None], turn: Callable[[int], None]) -> RunStore:
    """Follow a run whose folder changes with the turns."""
    store = RunStore.create(tmp_path, "first", plants.recipe())
    (store.folder / "flower").mkdir()
    (store.folder / "flower" / "superlink.log").write_text("one\n\n" + "two\n" * 5000 + "Traceback: it was here\n")
    turns = iter(range(10_000))
    done = store.folder / "result" / "federated.json"
    _follow(store, engine, done, 0, ask=ask, sleep=lambda _: turn(next(turns)))
    return store


def test_an_app_that_died_is_not_waited_for(tmp_path: Path, engine: subprocess.Popen[bytes]) -> None:
    states = iter([RunState(7, "running"), None, RunState(7, "finished:failed", "No heartbeat received.")])
    words = r"flwr-simulation.: ended without a result .No heartbeat received.*it was here.*superlink.log.*goes on"
    with pytest.raises(DeviceError, match=words):
        followed(tmp_path, engine, lambda: next(states), lambda turn: None)


def test_an_engine_that_was_killed_is_not_waited_for(tmp_path: Path, engine: subprocess.Popen[bytes]) -> None:
    def turn(number: int) -> None:
        if number == 3:
            engine.kill()
            engine.wait()

    with pytest.raises(DeviceError, match=r"flower-superlink.: ended with status -9; its log ends with: .*it was here"):
        followed(tmp_path, engine, lambda: None, turn)


def test_an_app_that_never_starts_is_not_waited_for(tmp_path: Path, engine: subprocess.Popen[bytes]) -> None:
    with pytest.raises(DeviceError, match=r"flower-superexec.: does not start the simulation"):
        followed(tmp_path, engine, lambda: RunState(7, "pending"), lambda turn: None)


def test_a_run_that_stopped_or_finished_says_so_itself(tmp_path: Path, engine: subprocess.Popen[bytes]) -> None:
    def finishes(number: int) -> None:
        (tmp_path / "a" / "first" / "result").mkdir(exist_ok=True)
        (tmp_path / "a" / "first" / "result" / "federated.json").write_text("{}")

    followed(tmp_path / "a", engine, lambda: RunState(7, "finished:completed"), finishes)
    with pytest.raises(NetworkError, match="stopped: round 1 has no quorum"):
        followed(
            tmp_path / "b",
            engine,
            lambda: RunState(7, "finished:failed"),
            lambda _: RunStore(tmp_path / "b", "first").stopped("round 1 has no quorum"),
        )
    assert last_lines(tmp_path / "none.log") == "nothing"


def test_a_server_that_raises_in_one_process_is_heard(tmp_path: Path) -> None:
    from edge_sft.federated.app import make_client_app
    from edge_sft.federated.local_grid import LocalGrid, run_server

    def broken(grid: Any, context: Any) -> None:
        raise NetworkError("the run first", "stopped")

    with pytest.raises(NetworkError, match="stopped"):
        run_server(broken, LocalGrid(make_client_app(plants.make), {}), {})


def test_a_thread_that_dies_is_an_answer(tmp_path: Path) -> None:
    many = plants.Plants(tmp_path, plants.recipe(rounds=1, deadline_s=600))

    def dies(asked: Any, reply: Any) -> list[Any]:
        if asked.metadata.dst_node_id == 13 and asked.metadata.message_type == "train.round":
            raise SystemExit(1)
        return [reply]

    many.run(many.grid(threads=True, interfere=dies), clock=_Short())
    row = many.rounds()[0]["sites"]["plant-c"]
    assert (row["status"], row["why"]) == ("error", "its thread ended: SystemExit")


class _Short:
    """Real time that passes a hundred times as fast."""

    def now(self) -> float:
        return 100 * time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / 100)


def prepared(root: Path) -> tuple[RunStore, Path, dict[str, str]]:
    """Three toy plants, and the app over them; with its environment."""
    there = plants.Plants(root, plants.recipe(rounds=2, share="no-norm", deadline_s=250))
    store = there.store()
    for number, name in enumerate(there.names, start=1):
        plants.write_site(store.folder / "sites" / name, name, number)
    app = root / "toy-app"
    app.mkdir()
    for name in ("pyproject.toml", "server_app.py"):
        shutil.copyfile(app_directory() / name, app / name)
    return store, app, {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}:{Path(__file__).parent}"}


HANGS = (
    CLIENT
    + """
import time
plants.Toy.train = lambda *_, **__: time.sleep(600)
"""
)


@pytest.mark.lab
def test_killing_the_simulations_process_ends_in_words(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="no Ray: that a killed simulation is noticed is not proved")
    store, app, base = prepared(tmp_path)
    (app / "client_app.py").write_text(HANGS)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            run_on_ray(store, lambda _: None, base, app)
        except DeviceError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    home = str((store.folder / "flower").resolve())
    until = time.monotonic() + 120
    while not (found := simulations(home)) and time.monotonic() < until:
        time.sleep(0.5)
    assert found, last_lines(store.folder / "flower" / "superlink.log")
    time.sleep(5)
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    thread.join(300)
    assert len(raised) == 1, "it waits for ever"
    assert "flwr-simulation" in str(raised[0])
    assert "ended without a result" in str(raised[0])


def simulations(home: str) -> list[int]:
    """Return the processes that run this home's simulation."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if b"flwr-simulation" in command and home.encode() in environment:
            found.append(int(folder.name))
    return found


@pytest.mark.lab
def test_flowers_engine_gives_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="no Ray: that the app runs on Flower's simulation engine is not proved")
    here = plants.Plants(tmp_path / "here", plants.recipe(rounds=2, share="no-norm", deadline_s=250))
    wanted = here.run()

    store, app, base = prepared(tmp_path / "there")
    (app / "client_app.py").write_text(CLIENT)
    said: list[str] = []
    result = run_on_ray(store, said.append, base, app)
    ours = (here.root / "runs/first/result/global.safetensors").read_bytes()
    assert (result / "global.safetensors").read_bytes() == ours, said
    lines = store.lines("round")
    assert lines[-1]["global"] == wanted.base
    assert len(lines[-1]["app_sha256"]) == 64  # what Flower says it ran
    assert {name: row["status"] for name, row in lines[0]["sites"].items()} == dict.fromkeys(here.names, "ok")

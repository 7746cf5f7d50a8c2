"""Real processes: a SuperLink with TLS and node authentication, two sites served by `edge-sft site run`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_sft.federated import joining, site_files
from edge_sft.federated.environment import flower_environment, flower_program

from .sites import NOW, Coordinator

pytest.importorskip("flwr", reason="Flower is not installed: real sites were not run")

CLI = (sys.executable, "-m", "edge_sft.cli.main")
APP = {
    "pyproject.toml": """
[project]
name = "tiny"
version = "1.0.0"
description = "what a test runs"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "edge-sft"
[tool.flwr.app.components]
serverapp = "tiny.server_app:app"
clientapp = "tiny.client_app:app"
[tool.flwr.app.config]
out = ""
""",
    "tiny/__init__.py": "",
    "tiny/client_app.py": """
import os
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query()
def ask(message, context):
    site = Path(context.node_config["site-dir"]).name
    return Message(RecordDict({"config": ConfigRecord({"site": site})}), reply_to=message)
""",
    # Asks until everybody answered after somebody did not, or did so three times.
    "tiny/server_app.py": """
import json, time
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
def name(message):
    return message.content["config"]["site"]
@app.main()
def main(grid, context):
    def ask(number):
        content = lambda: RecordDict({"config": ConfigRecord({"n": number})})
        asked = [Message(content(), node, MessageType.QUERY) for node in grid.get_node_ids()]
        found = list(grid.send_and_receive(asked, timeout=200))
        return sorted(f"error {one.error.code}" if one.has_error() else name(one) for one in found)
    missed = False
    for number in range(60):
        found = ask(number)
        with open(context.run_config["out"], "a") as file:
            file.write(json.dumps(found) + chr(10))
        missed = missed or any("error" in one for one in found)
        if found == ["error 7", "error 7"] or (missed and found == ["a", "b"]):
            break
        time.sleep(0.5)
""",
}


class World:
    """A SuperLink on loopback and its folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.coordinator = Coordinator(root)
        (root / "ca.pem").write_text(self.coordinator.ca)
        self.environment = flower_environment(os.environ, root / "home")
        (root / "home").mkdir()
        text = f'[superlink]\ndefault = "p"\n[superlink.p]\naddress = "127.0.0.1:{self.port}"\n'
        (root / "home" / "config.toml").write_text(f'{text}root-certificates = "{root}/ca.pem"\n')
        self.app = self.write_app("app", APP)
        self.running: list[subprocess.Popen[bytes]] = []

    def write_app(self, name: str, files: dict[str, str]) -> Path:
        for path, text in files.items():
            (self.root / name / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name / path).write_text(text)
        return self.root / name

    def digest(self, app: Path) -> str:
        from flwr.cli.build import build_fab_from_disk

        return hashlib.sha256(build_fab_from_disk(app)).hexdigest()

    def start(self, words: list[Any], log: str) -> subprocess.Popen[bytes]:
        environment = {**self.environment, "PYTHONPATH": str(Path(__file__).parents[2])}
        with (self.root / log).open("ab") as file:
            process = subprocess.Popen([str(word) for word in words], stdout=file, stderr=file, env=environment)
        self.running.append(process)
        return process

    def superlink(self) -> None:
        words = [flower_program("flower-superlink"), "--host", "127.0.0.1", "--port", self.port]
        words += ["--ssl-ca-certfile", self.root / "ca.pem", "--ssl-certfile", self.root / "server.pem"]
        words += ["--ssl-keyfile", self.root / "server.key", "--enable-supernode-auth", "--database", self.root / "db"]
        self.start(words, "superlink.log")

    def flwr(self, *words: Any) -> str:
        command = [flower_program("flwr"), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=self.environment, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def join(self, name: str, apps: tuple[str, ...]) -> Path:
        (self.root / "data").mkdir(exist_ok=True)
        path = self.coordinator.invite(name, address=f"127.0.0.1:{self.port}", apps=apps)
        invite, _ = joining.open_invite(path, NOW)
        joining.join(self.root / name, invite, self.root / "data", self.root / f"{name}.join", version="0.1.0")
        return self.root / name

    def serve(self, site: Path) -> subprocess.Popen[bytes]:
        return self.start([*CLI, "site", "run", "--dir", site], f"{site.name}.log")

    def said(self, site: Path) -> str:
        return (self.root / f"{site.name}.log").read_text()

    def run(self, app: Path, out: str) -> Path:
        self.flwr("run", app, "p", "--run-config", f'out="{self.root / out}"')
        return self.root / out

    def close(self) -> None:
        for process in reversed(self.running):
            process.terminate()
        for process in reversed(self.running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(40)
            process.kill()
            process.wait()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.close()


def eventually(condition: Callable[[], Any], what: str, patience_s: float = 240.0) -> Any:
    ends = time.monotonic() + patience_s
    while time.monotonic() < ends:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(what)


def rounds(out: Path) -> list[list[str]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def came_back(found: list[list[str]]) -> list[list[str]]:
    """Return the rounds, once both sites answer after one did not."""
    missed = [number for number, one in enumerate(found) if "error 5" in one or len(one) < 2]
    return found if missed and found[-1] == ["a", "b"] else []


@pytest.mark.lab
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's own way of packing
@pytest.mark.timeout(900)
def test_sites_wait_refuse_other_apps_and_come_back_after_a_kill(world: World) -> None:
    digest = world.digest(world.app)
    sites = [world.join(name, (digest,)) for name in ("a", "b")]
    first = world.serve(sites[0])
    eventually(lambda: "nobody listens there" in world.said(sites[0]), "the coordinator is not up yet")
    world.superlink()
    eventually(lambda: "does not admit this site's key" in world.said(sites[0]), "not approved yet")
    world.serve(sites[1])
    for site in sites:
        world.flwr("supernode", "register", site / "key.pub", "p")
    for site in sites:
        eventually(lambda site=site: "serving: node" in world.said(site), f"{site.name} serves")

    changed = {**APP, "tiny/client_app.py": APP["tiny/client_app.py"].replace("ask", "asl", 1)}  # one byte
    other = world.write_app("other", changed)
    out = world.run(other, "other.jsonl")
    assert eventually(lambda: rounds(out), "the coordinator is told") == [["error 7", "error 7"]]  # INVALID_FAB
    for site in sites:
        assert f"refused: the coordinator sent app {world.digest(other)}" in world.said(site)
        assert not list((site / "flower").rglob("client_app.py"))  # nothing of it was unpacked

    out = world.run(world.app, "good.jsonl")
    eventually(lambda: ["a", "b"] in rounds(out), "both sites answer")
    state = site_files.read_state(sites[0])
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)  # the node
    found = eventually(lambda: came_back(rounds(out)), "it comes back")
    assert ["b"] in [[name for name in one if "error" not in name] for one in found]  # meanwhile the other went on

    first.kill()  # `site run` itself: its node does not outlive it
    gone = site_files.read_state(sites[0])
    assert gone is not None
    eventually(lambda: not Path(f"/proc/{gone.pid}").exists(), "the node ends")
    first.wait()
    world.serve(sites[0])
    eventually(lambda: world.said(sites[0]).count("serving: node") >= 3, "it serves again")
    assert "Traceback" not in "".join(world.said(site) for site in sites)

"""A coordinator and sites in network namespaces of their own: a site sees the coordinator's proxy and nothing else.

The coordinator's namespace has a bridge; each site hangs on it by a port that is isolated from the other ports. No
namespace has a route anywhere else, so there is no internet. Needs root, `unshare`, `nsenter`, `ip`, `bridge`, nginx.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_sft.federated import coordinator

ADDRESS = "10.213.0.1"
PORT = 8443
EDGE_SFT = (sys.executable, "-m", "edge_sft.cli.main")


def lacking() -> str:
    """Say why there can be no lab here, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "not root on Linux: what a site can reach in its own network namespace is not proved"
    tools = ("unshare", "nsenter", "ip", "bridge", "nginx", "openssl")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is not installed: what a site can reach is not proved"
    if not (Path(sys.executable).parent / "flower-superlink").exists():
        return "flwr is not installed: real Flower processes behind the proxy are not proved"
    made = subprocess.run(
        ["unshare", "-n", "ip", "link", "add", "br0", "type", "bridge"], capture_output=True, check=False
    )
    return (
        "" if made.returncode == 0 else "no network namespaces with bridges here: what a site can reach is not proved"
    )


def eventually(condition: Callable[[], Any], timeout_s: float = 90.0, what: str = "") -> Any:
    """Wait until something is truthy; return it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"never came: {what}")


class Namespace:
    """A network namespace, held by a sleeping process."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "ip link set lo up && echo ready && exec sleep infinity"],
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.pid = self._holder.pid

    def enter(self, words: Sequence[str | Path]) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-n", "--", *map(str, words)]

    def call(self, *words: str | Path, check: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.enter(words), capture_output=True, text=True, timeout=240, check=check)

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()


class Lab:
    """The coordinator's namespace, and sites by name."""

    address, port = ADDRESS, PORT
    superlink_port = coordinator.SUPERLINK_PORT

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "federation"
        self.coordinator = Namespace()
        self.sites: dict[str, Namespace] = {}
        self._started: list[subprocess.Popen[bytes]] = []
        for words in (
            "link add br0 type bridge",
            f"addr add {ADDRESS}/24 dev br0",
            "link set br0 up",
        ):
            self._ip(*words.split())

    def _ip(self, *words: str) -> None:
        self.coordinator.call("ip", *words, check=True)

    def add_site(self, name: str) -> Namespace:
        """Make a site's namespace: one address, no route but to its own subnet, no way to the other sites."""
        site, number = Namespace(), len(self.sites) + 10
        self._ip("link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", str(site.pid))
        self._ip("link", "set", f"port{number}", "master", "br0", "up")
        self.coordinator.call("bridge", "link", "set", "dev", f"port{number}", "isolated", "on", check=True)
        site.call("ip", "addr", "add", f"10.213.0.{number}/24", "dev", "eth0", check=True)
        site.call("ip", "link", "set", "eth0", "up", check=True)
        self.sites[name] = site
        return site

    def edge_sft(self, *words: str | Path, expect: int = 0) -> str:
        """Run a verb at the coordinator; return what it printed."""
        done = self.coordinator.call(*EDGE_SFT, *words, "--dir", self.directory)
        assert done.returncode == expect, (words, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def start(
        self, place: Namespace, words: Sequence[str | Path], log: Path, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program that runs until the lab closes."""
        with log.open("ab") as out:
            started = subprocess.Popen(
                place.enter(words), stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=environment
            )
        self._started.append(started)
        return started

    def up(self) -> subprocess.Popen[bytes]:
        """Start `edge-sft federate up` and wait until it says that it is up."""
        log = self.root / "up.log"
        before = log.stat().st_size if log.exists() else 0
        running = self.start(self.coordinator, [*EDGE_SFT, "federate", "up", "--dir", self.directory], log)
        eventually(
            lambda: "is up" in log.read_bytes()[before:].decode() or running.poll() is not None,
            150,
            "federate up",
        )
        assert running.poll() is None, log.read_text()
        return running

    def make(self) -> None:
        """Make the federation; it is not up yet."""
        self.edge_sft("federate", "init", "--address", f"{ADDRESS}:{PORT}", "--name", "lab")

    def close(self) -> None:
        for one in reversed(self._started):
            if one.poll() is None:
                one.send_signal(signal.SIGTERM)
        for one in reversed(self._started):
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)
            one.wait()
        for place in (*self.sites.values(), self.coordinator):
            place.close()


@contextlib.contextmanager
def lab(root: Path) -> Iterator[Lab]:
    """Yield a lab; everything in it ends with it."""
    made = Lab(root)
    try:
        yield made
    finally:
        made.close()


_APP = {
    "pyproject.toml": """
[project]
name = "tiny"
version = "1.0.0"
description = "what a test runs"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "edgesft"
[tool.flwr.app.components]
serverapp = "tiny.server_app:app"
clientapp = "tiny.client_app:app"
[tool.flwr.app.config]
run-dir = ""
run-name = ""
""",
    "tiny/__init__.py": "",
    "tiny/client_app.py": """
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query()
def hello(message, context):
    return Message(RecordDict({"config": ConfigRecord({"site": str(message.metadata.dst_node_id)})}), reply_to=message)
""",
    "tiny/server_app.py": """
import json, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    place = Path(context.run_config["run-dir"]) / context.run_config["run-name"]
    if (place / "break").exists():
        raise RuntimeError("told to break")
    rounds = place / "rounds.jsonl"
    number = rounds.read_text().count("\\n") if rounds.exists() else 0
    while number < 2:
        nodes = sorted(grid.get_node_ids())
        asked = [Message(RecordDict({"config": ConfigRecord({"n": number})}), node, "query") for node in nodes]
        replies = list(grid.send_and_receive(asked, timeout=240))
        number += 1
        sites = {str(reply.metadata.src_node_id): {"status": "ok"} for reply in replies if reply.has_content()}
        with rounds.open("a") as file:
            file.write(json.dumps({"kind": "round", "round": number, "sites": sites}) + "\\n")
        while (place / "hold").exists():
            time.sleep(0.2)
    (place / "result").mkdir()
    (place / "result" / "federated.json").write_text("{}")
""",
}


def tiny_app(folder: Path) -> Path:
    """Write a Flower app of two rounds that waits after each while the run's folder has a file `hold`."""
    for name, text in _APP.items():
        path = folder / "tiny-app" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "tiny-app"


RECIPE = """
schema_version = 1
name = "tiny"
[task]
kind = "classification"
labels = ["good", "bad"]
ok = ["good"]
[data]
path = "pictures"
[federated]
rounds = 2
"""

RUN = """
import os, sys, time
from pathlib import Path
from edge_sft.federated import coordinator, running, superlink
from edge_sft.progress import Silent
folder, federation = coordinator.load(Path(sys.argv[1]))
control = superlink.Control(folder, federation, os.environ)
place = running.prepare(folder.runs, sys.argv[3], Path(sys.argv[4]), 2)
running.follow(control, place, Path(sys.argv[2]), progress=Silent(), say=lambda line: print(line, flush=True),
               sleep=time.sleep)
print("finished", flush=True)
"""

"""Flower's SuperLink as edge-sft starts it, and Flower's own command line spoken to it over loopback."""

from __future__ import annotations

import json
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_sft import durable
from edge_sft.errors import BugError, NetworkError, UserError
from edge_sft.federated.coordinator import Federation, Folder
from edge_sft.federated.environment import flower_environment, flower_program
from edge_sft.federated.supervisor import Part, free

_CONNECTION: Final = "here"
_ENOUGH_S: Final = 120.0  # starting Flower's command line takes 2 s on two idle cores


def command(folder: Folder, federation: Federation) -> list[str]:
    """Return how the SuperLink is started. Raises DeviceError when Flower is not installed."""
    return [
        flower_program("flower-superlink"),
        *("--host", "127.0.0.1", "--port", str(federation.superlink_port)),
        *("--ssl-ca-certfile", str(folder.authority)),
        *("--ssl-certfile", str(folder.certificate), "--ssl-keyfile", str(folder.key)),
        *("--database", str(folder.database)),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]


def part(folder: Folder, federation: Federation, base: Mapping[str, str]) -> Part:
    """Return the SuperLink as a program to keep running. Raises DeviceError when Flower is not installed."""
    return Part(
        "superlink",
        command(folder, federation),
        flower_environment(base, folder.flower_home),
        folder.root / "superlink.log",
        ready=lambda: healthy(folder, federation),
        prepare=lambda: free("127.0.0.1", federation.superlink_port, "superlink_port"),
    )


def healthy(folder: Folder, federation: Federation, timeout_s: float = 2.0) -> bool:
    """Tell whether the SuperLink answers on loopback with the federation's certificate."""
    trusting = ssl.create_default_context(cafile=str(folder.authority))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting))
    try:
        with opener.open(f"https://127.0.0.1:{federation.superlink_port}/health", timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@dataclass(frozen=True)
class Node:
    """A registered site as Flower sees it. ``status``: registered, online, offline; times as Flower writes them."""

    node_id: int
    status: str
    online_at: str
    offline_at: str


@dataclass(frozen=True)
class RunState:
    """A run as Flower sees it. ``status`` is e.g. ``running`` or ``finished:failed``; ``details`` its reason."""

    run_id: int
    status: str
    details: str = ""

    @property
    def over(self) -> bool:
        """Whether it has finished, well or not."""
        return self.status.startswith("finished")


class Control:
    """Flower's command line over loopback: registering sites, starting runs.

    Args:
        folder: The federation's folder.
        federation: What federation.toml says.
        base: The environment to start Flower's programs with.
    """

    def __init__(self, folder: Folder, federation: Federation, base: Mapping[str, str]) -> None:
        self._folder = folder
        self._federation = federation
        self._environment = flower_environment(base, folder.flower_home)

    def register(self, public_key: str) -> int:
        """Let a key in.

        Returns:
            The node's id, which names it from now on.

        Raises:
            UserError: The key is registered already.
            NetworkError: The SuperLink does not answer.
        """
        path = self._folder.flower_home / "approving.pub"
        durable.write_text(path, public_key.strip() + "\n")
        try:
            return int(self._flwr("supernode", "register", str(path), _CONNECTION)["node-id"])
        finally:
            path.unlink(missing_ok=True)

    def unregister(self, node_id: int) -> None:
        """Put a node out. Raises NetworkError when the SuperLink does not answer."""
        self._flwr("supernode", "unregister", str(node_id), _CONNECTION)

    def nodes(self) -> dict[int, Node]:
        """Return the registered nodes by id. Raises NetworkError when the SuperLink does not answer."""
        listed = self._flwr("supernode", "list", _CONNECTION)["nodes"]
        nodes = [Node(int(row["node-id"]), row["status"], row["online-at"], row["offline-at"]) for row in listed]
        return {node.node_id: node for node in nodes}

    def start(self, app: Path, config: Mapping[str, str]) -> int:
        """Submit an app.

        Args:
            app: The app's folder.
            config: Its run configuration; texts only.

        Returns:
            The run's id.

        Raises:
            NetworkError: The SuperLink does not answer.
            UserError: The app is refused.
        """
        pairs = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
        return int(self._flwr("run", str(app), _CONNECTION, "--run-config", pairs)["run-id"])

    def run_state(self, run_id: int) -> RunState:
        """Return what became of a run. Raises NetworkError when the SuperLink does not answer."""
        row = self._flwr("list", _CONNECTION, "--run-id", str(run_id))["runs"][0]
        return RunState(run_id, row["status"], str(row.get("status-details") or row.get("details") or ""))

    def stop(self, run_id: int) -> None:
        """Stop a run. Raises NetworkError when the SuperLink does not answer."""
        self._flwr("stop", str(run_id), _CONNECTION)

    def _flwr(self, *words: str) -> dict[str, Any]:
        self._write_connection()
        try:
            done = subprocess.run(
                [flower_program("flwr"), *words, "--format", "json"],
                env=self._environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=_ENOUGH_S,
            )
        except subprocess.TimeoutExpired as error:
            raise self._silent("does not answer in two minutes") from error
        answer = last_json(done.stdout)
        if done.returncode == 0 and answer.get("success", False):
            return answer
        told = str(answer.get("error-message") or done.stderr.strip() or done.stdout.strip() or "it said nothing")
        if "unavailable" in told.lower() or "connect" in told.lower():
            raise self._silent("does not answer")
        raise UserError(f"Flower ({' '.join(words[:2])})", f"refused: {' '.join(told.split())[:400]}")

    def _silent(self, fact: str) -> NetworkError:
        at = f"127.0.0.1:{self._federation.superlink_port}"
        return NetworkError(
            f"the SuperLink on {at}", fact, f"Is it running? edge-sft federate up --dir {self._folder.root}"
        )

    def _write_connection(self) -> None:
        text = f"""[superlink]
default = "{_CONNECTION}"

[superlink.{_CONNECTION}]
address = "127.0.0.1:{self._federation.superlink_port}"
root-certificates = "{self._folder.authority}"
"""
        path = self._folder.flower_home / "config.toml"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            durable.write_text(path, text)


def last_json(text: str) -> dict[str, Any]:
    """Return the JSON object that Flower's command line ends with; it may print lines of its own before."""
    start = text.find("{")
    if start < 0:
        return {}
    try:
        found = json.loads(text[start:])
    except json.JSONDecodeError:
        return {}
    if not isinstance(found, dict):
        raise BugError("Flower's command line", f"answered with {type(found).__name__}, not an object")
    return found

"""The same app on Flower's own simulation engine (Ray): its SuperLink and its `flwr run`, in a folder of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from edge_sft.errors import DeviceError, NetworkError
from edge_sft.federated.app import app_directory
from edge_sft.federated.environment import flower_environment, flower_program
from edge_sft.federated.run_store import FACTS, RESULT, STOPPED, RunStore

_POLL_S: Final = 1.0
_START_S: Final = 120.0  # Flower's SuperLink imports for 10 s on a quiet machine


def run_on_ray(store: RunStore, say: Callable[[str], None], base: Mapping[str, str], app: Path | None = None) -> Path:
    """Run a prepared simulation on Flower's Ray engine, or what is left of it.

    Args:
        store: What `edge_sft.federated.simulate.prepare` returned.
        say: Told what happens.
        base: The command line's environment.
        app: The Flower app's folder; None = that of edge-sft.

    Returns:
        The result's folder.

    Raises:
        DeviceError: Flower or Ray is not installed, or Flower's engine does not start or ends without a result.
        NetworkError: The run stopped, as the coordinator's loop says it.
    """
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise DeviceError("Ray", "is not installed", "pip install 'edge-sft[simulation]', or leave out --ray")
    home = store.folder / "flower"
    home.mkdir(exist_ok=True)
    port = _free_port()
    text = f'[superlink]\ndefault = "ray"\n[superlink.ray]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(text, encoding="utf-8")
    environment = flower_environment(base, home.resolve())
    finished = store.folder / RESULT / FACTS
    was = finished.stat().st_mtime_ns if finished.exists() else 0
    (store.folder / STOPPED).unlink(missing_ok=True)
    command = [flower_program("flower-superlink"), "--insecure", "--simulation", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--disable-runtime-dependency-installation"]
    with (home / "superlink.log").open("ab") as log:
        engine = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _await(engine, port, home / "superlink.log")
            _submit(store, environment, app or app_directory())
            say("Flower's engine runs; its log is " + str(home / "superlink.log"))
            _follow(store, engine, finished, was)
        finally:
            _end(engine)
    return store.folder / RESULT


def _await(engine: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _START_S
    while engine.poll() is None and time.monotonic() < until:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise DeviceError("Flower's engine", "does not start", f"Read {log}.")


def _submit(store: RunStore, environment: dict[str, str], app: Path) -> None:
    sites = sum(path.is_dir() for path in (store.folder / "sites").iterdir())
    run = f'run-dir="{store.folder.resolve().parent}" run-name="{store.run}"'
    command = [flower_program("flwr"), "run", str(app), "ray", "--run-config", run]
    command += ["--federation-config", f"num-supernodes={sites}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DeviceError("flwr run", f"refused the app ({done.stdout.strip()[-300:]}{done.stderr.strip()[-300:]})")


def _follow(store: RunStore, engine: subprocess.Popen[bytes], finished: Path, was: int) -> None:
    stopped = store.folder / STOPPED
    while not finished.exists() or finished.stat().st_mtime_ns == was:
        if stopped.exists():
            raise NetworkError(f"the run {store.run}", "stopped: " + stopped.read_text(encoding="utf-8").strip())
        if engine.poll() is not None:
            raise DeviceError("Flower's engine", "ended without a result", f"Read {store.folder}/flower/superlink.log.")
        time.sleep(_POLL_S)


def _end(engine: subprocess.Popen[bytes]) -> None:
    """End the engine and what it started; its session is its own."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(engine.pid, signal.SIGTERM)
        engine.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(engine.pid, signal.SIGKILL)
    engine.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

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
from edge_sft.federated.superlink import RunState, last_json

_POLL_S: Final = 1.0
_ASK_EVERY: Final = 10  # looks at the run's folder between two questions to Flower; each starts a process of 2 s
_START_S: Final = 120.0  # Flower's SuperLink imports for 10 s on a quiet machine
_ENOUGH_S: Final = 120.0  # for Flower's command line, which answers in 2 s on a quiet machine
_LAST_LINES: Final = 8


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
            run_id = _submit(store, environment, app or app_directory())
            say("Flower's engine runs; its log is " + str(home / "superlink.log"))
            _follow(store, engine, finished, was, ask=lambda: run_state(run_id, environment))
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
    raise DeviceError("Flower's engine", f"does not start; it said last: {last_lines(log)}", f"Read {log}.")


def _submit(store: RunStore, environment: dict[str, str], app: Path) -> int:
    """Hand the app to Flower's engine; return the run's id. Raises DeviceError: it is refused."""
    sites = sum(path.is_dir() for path in (store.folder / "sites").iterdir())
    run = f'run-dir="{store.folder.resolve().parent}" run-name="{store.run}"'
    words = ["run", str(app), "ray", "--run-config", run, "--federation-config", f"num-supernodes={sites}"]
    said = _flwr(words, environment)
    try:
        return int(last_json(said)["run-id"])
    except (KeyError, ValueError) as error:
        raise DeviceError(
            "flwr run", f"refused the app ({' '.join(said.split())[-300:] or 'it said nothing'})"
        ) from error


def run_state(run_id: int, environment: Mapping[str, str]) -> RunState | None:
    """Return what Flower says became of a run; None where it does not answer."""
    try:
        row = last_json(_flwr(["list", "ray", "--run-id", str(run_id)], environment))["runs"][0]
        return RunState(run_id, str(row["status"]), str(row.get("status-details") or row.get("details") or ""))
    except (KeyError, IndexError, TypeError):
        return None


def _flwr(words: list[str], environment: Mapping[str, str]) -> str:
    """Return what Flower's command line prints; "" where it does not end."""
    command = [flower_program("flwr"), *words, "--format", "json"]
    try:
        done = subprocess.run(
            command, env=dict(environment), capture_output=True, text=True, check=False, timeout=_ENOUGH_S
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout or done.stderr


def _follow(
    store: RunStore,
    engine: subprocess.Popen[bytes],
    finished: Path,
    was: int,
    *,
    ask: Callable[[], RunState | None],
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Wait for the result, or for the word that there will be none.

    Args:
        store: The run.
        engine: Flower's SuperLink.
        finished: The result's file.
        was: Its time before; 0 where there was none.
        ask: What Flower says of the run. A ServerApp that was killed leaves neither a result nor a reason.
        sleep: Waits so many seconds.

    Raises:
        NetworkError: The run stopped, as the coordinator's loop says it.
        DeviceError: The engine, or the process that runs the app in it, is dead or never began.
    """
    log, turn, unborn = store.folder / "flower" / "superlink.log", 0, 0
    while not _done(store, finished, was):
        if engine.poll() is not None and not _done(store, finished, was):
            raise _dead("Flower's engine (flower-superlink)", f"ended with status {engine.returncode}", log)
        turn += 1
        if turn % _ASK_EVERY == 0:
            state = ask()
            if state is not None and state.over and not _done(store, finished, was):
                why = f"ended without a result ({state.details or state.status})"
                raise _dead("the process that runs the simulation (flwr-simulation)", why, log)
            unborn = unborn + 1 if state is not None and state.status == "pending" else 0
            if unborn * _ASK_EVERY * _POLL_S > _START_S:
                raise _dead("Flower's starter of processes (flower-superexec)", "does not start the simulation", log)
        sleep(_POLL_S)


def _done(store: RunStore, finished: Path, was: int) -> bool:
    """Whether there is a result. Raises NetworkError: the run stopped in words."""
    if finished.exists() and finished.stat().st_mtime_ns != was:
        return True
    stopped = store.folder / STOPPED
    if stopped.exists():
        raise NetworkError(f"the run {store.run}", "stopped: " + stopped.read_text(encoding="utf-8").strip())
    return False


def _dead(thing: str, fact: str, log: Path) -> DeviceError:
    remedy = (
        f"Was memory short (dmesg)? Read {log}. Started again under its name, the run goes on after its last round."
    )
    return DeviceError(thing, f"{fact}; its log ends with: {last_lines(log)}", remedy)


def last_lines(log: Path) -> str:
    """Return the last lines of a log in one; of a long log its end is read only."""
    if not log.is_file():
        return "nothing"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16384))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-_LAST_LINES:])[-1200:] or "nothing"


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

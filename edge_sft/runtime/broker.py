"""A broker for a demo, a test or one small line: started here, with a password, on loopback unless TLS is given.

Plants use a Mosquitto of their own (docker/mosquitto); see docs/mqtt.md.
"""

from __future__ import annotations

import atexit
import contextlib
import ipaddress
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

from edge_sft import durable
from edge_sft.errors import DeviceError, UserError
from edge_sft.runtime import broker_engines
from edge_sft.runtime.broker_engines import Listener

USERNAME = "edge-sft"
READY_S = 20.0


@dataclass
class RunningBroker:
    """A broker process of ours. A context manager; also ended when this process ends.

    Attributes:
        host: Where it listens.
        port: Its port.
        username: For clients.
        password_file: Holds the password, readable by this user only.
        engine: ``mosquitto`` or ``amqtt`` (which speaks MQTT 3.1.1 only).
        log_file: What the broker says.
    """

    host: str
    port: int
    username: str
    password_file: Path
    engine: Literal["mosquitto", "amqtt"]
    log_file: Path
    process: subprocess.Popen[bytes]

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process.poll() is None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the process to end; False when it still runs."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """End the process, politely at first."""
        atexit.unregister(self.stop)
        if self.running:
            self.process.terminate()
            if not self.wait(5.0):
                self.process.kill()
                self.process.wait()

    def __enter__(self) -> RunningBroker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(
    directory: Path,
    port: int = 0,
    *,
    host: str = "127.0.0.1",
    engine: str = "auto",
    cert_file: Path | None = None,
    key_file: Path | None = None,
    environment: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> RunningBroker:
    """Start a broker and wait until it accepts connections.

    Args:
        directory: Where its configuration, password, data and log live; made when absent, reused afterwards.
        port: 0 takes a free one.
        host: The address to listen on; beyond loopback only with ``cert_file`` and ``key_file``.
        engine: ``auto`` takes Mosquitto where it is installed, else amqtt in an environment of its own.
        cert_file: The broker's certificate, PEM; switches TLS on.
        key_file: Its private key, PEM.
        environment: Where the environment of amqtt is made; default ``<directory>/broker-env``.
        report: Told what takes long (making that environment).

    Raises:
        UserError: Beyond loopback without TLS; a file is missing; the engine asked for is not there.
        DeviceError: It does not start; the message holds the last line of its log.
    """
    _check_exposure(host, cert_file, key_file)
    directory.mkdir(parents=True, exist_ok=True)
    chosen = broker_engines.choose(engine)
    password_file = _password_file(directory)
    password = password_file.read_text(encoding="utf-8").strip()
    listener = Listener(host, port or _free_port(host), cert_file, key_file)
    if chosen == "mosquitto":
        command = broker_engines.mosquitto(directory, listener, USERNAME, password)
    else:
        python = broker_engines.amqtt_python(environment or directory / "broker-env", report)
        command = broker_engines.amqtt(directory, listener, USERNAME, password, python)
    log_file = directory / "broker.log"
    with log_file.open("wb") as log:
        process = _launch(command, directory, log)
    running = RunningBroker(host, listener.port, USERNAME, password_file, chosen, log_file, process)
    atexit.register(running.stop)
    try:
        _wait_ready(running)
    except BaseException:
        running.stop()
        raise
    return running


def _check_exposure(host: str, cert_file: Path | None, key_file: Path | None) -> None:
    if (cert_file is None) != (key_file is None):
        raise UserError("broker", "TLS needs a certificate and its key", "Give both.")
    for file in (cert_file, key_file):
        if file is not None and not file.is_file():
            raise UserError(str(file), "does not exist", "Give PEM files.")
    if cert_file is None and not is_loopback(host):
        remedy = "Give a certificate and key (--cert-file, --key-file), or stay on 127.0.0.1."
        raise UserError(f"broker on {host}", "would be open to the network without encryption", remedy)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _password_file(directory: Path) -> Path:
    file = directory / "password"
    if not file.exists():
        durable.write_text(file, secrets.token_urlsafe(18) + "\n")
    with contextlib.suppress(OSError):  # file systems without rights
        file.chmod(0o600)
    return file


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _launch(command: list[str], directory: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    try:
        return subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            creationflags=flags,
            start_new_session=os.name == "posix",  # Ctrl-C is ours to handle
        )
    except OSError as error:
        raise DeviceError(command[0], f"cannot be started ({error.strerror})", "Check the installation.") from error


def _wait_ready(broker: RunningBroker) -> None:
    deadline = time.monotonic() + READY_S
    connectable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(broker.host, broker.host)  # noqa: S104 - compared only
    while time.monotonic() < deadline and broker.running:
        answers = _accepts(connectable, broker.port)
        time.sleep(0.05)
        if answers and broker.running:  # not running: another program owns the port
            return
    lines = broker.log_file.read_text(errors="replace").strip().splitlines()
    fact = f"did not start on {broker.host}:{broker.port} ({lines[-1] if lines else 'no message'})"
    raise DeviceError(f"broker ({broker.engine})", fact, f"Is the port taken? See {broker.log_file}.")


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True
